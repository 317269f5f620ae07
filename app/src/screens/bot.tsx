// One assistant: its plan page, its start or its chat, whichever it is time for.

import { useLocalSearchParams } from 'expo-router';
import { useRef } from 'react';
import { Problem } from '@/api/problem';
import { faceOf } from '@/features/bots/face';
import { useBot } from '@/features/queries';
import { Column } from '@/ui/layout';
import { Skeleton } from '@/ui/spinner';
import { ChatPage } from './chat/chat-page';
import { Fault } from './fault';
import { NotFound } from './not-found';
import { Plan } from './plan';
import { Starting } from './starting';

export function BotPage() {
  const { bot: id } = useLocalSearchParams<{ bot: string }>();
  const bot = useBot(id);
  const ranAs = useRef<string | null>(null);
  if (bot.data?.status === 'running') ranAs.current = id;
  if (bot.error instanceof Problem && bot.error.status === 404) return <NotFound what="You have no assistant at this address." />;
  if (!bot.data) {
    return (
      <Column narrow middle testID="bot-loading">
        {bot.error ? <Fault error={bot.error} onRetry={() => void bot.refetch()} testID="bot-fault" /> : <Skeleton lines={4} />}
      </Column>
    );
  }
  const face = faceOf(bot.data, ranAs.current === id);
  if (face === 'plan') return <Plan bot={bot.data} />;
  if (face === 'chat') return <ChatPage key={id} bot={bot.data} />;
  return <Starting bot={bot.data} />;
}
