// Everything behind the door: nobody without a session, and the live events while one is there.

import { Redirect, Slot, usePathname } from 'expo-router';
import { useLiveEvents } from '@/features/queries';
import { useSession } from '@/features/session/use-session';

export default function Inside() {
  const { status } = useSession();
  const path = usePathname();
  if (status !== 'signed-in') return <Redirect href={{ pathname: '/log-in', params: path === '/' ? {} : { next: `/app${path}` } }} />;
  return <Live />;
}

function Live() {
  useLiveEvents();
  return <Slot />;
}
