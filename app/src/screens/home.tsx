// Where a signed-in person goes first: to the wizard, or to an assistant.

import { Redirect } from 'expo-router';
import { useBots } from '@/features/queries';
import { Column } from '@/ui/layout';
import { Skeleton } from '@/ui/spinner';
import { Fault } from './fault';

export function Home() {
  const bots = useBots();
  const first = bots.data?.items[0];
  if (first) return <Redirect href={{ pathname: '/bots/[bot]', params: { bot: first.id } }} />;
  if (bots.data) return <Redirect href="/new" />;
  return (
    <Column narrow middle>
      {bots.error ? <Fault error={bots.error} onRetry={() => void bots.refetch()} testID="home-fault" /> : <Skeleton />}
    </Column>
  );
}
