// The line above the chat when the use of this assistant looked unusual: what was noticed, what was done, and one tap to go on.

import { View } from 'react-native';
import { api } from '@/api/client';
import { sentence } from '@/api/problem';
import type { Bot } from '@/api/types';
import { unusualWord } from '@/features/bots/face';
import { keys, useChange } from '@/features/queries';
import { Banner } from '@/ui/banner';
import { Button } from '@/ui/button';
import { toast } from '@/ui/toast';

export function UnusualUse({ bot }: { bot: Bot }) {
  const resume = useChange(() => api.resumeBot(bot.id), [keys.bots]);
  const word = unusualWord(bot);
  // As long as somebody else keeps it from running, there is nothing that one tap could lift.
  if (!word || bot.suspended) return null;
  const go = () =>
    resume.mutate(undefined, {
      onSuccess: () => toast(`${bot.bot_name} goes on.`),
      onError: (error) => toast(sentence(error), 'bad'),
    });
  return (
    <View className="w-full border-b border-line px-3 py-2">
      <View className="w-full max-w-3xl self-center">
        <Banner
          kind={word.kind}
          testID="chat-unusual"
          action={<Button small kind="quiet" label={word.action} onPress={go} busy={resume.isPending} testID="chat-resume" />}
        >
          {word.text}
        </Banner>
      </View>
    </View>
  );
}
