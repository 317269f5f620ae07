import { Redirect } from 'expo-router';
import { useSession } from '@/features/session/use-session';
import { Home } from '@/screens/home';

export default function Index() {
  return useSession().status === 'signed-in' ? <Home /> : <Redirect href="/log-in" />;
}
