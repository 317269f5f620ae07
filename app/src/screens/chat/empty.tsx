// The first page of a conversation: a greeting, and a few things to begin with.

import { Pressable, ScrollView, View } from 'react-native';
import type { Bot } from '@/api/types';
import { suggestionsFor } from '@/features/wizard/verticals';
import { Mark } from '@/ui/mark';
import { Heading, Text } from '@/ui/text';

export function EmptyChat({ bot, onPick }: { bot: Bot; onPick: (text: string) => void }) {
  return (
    <ScrollView className="flex-1" contentContainerClassName="grow justify-center px-5 py-8" testID="chat-empty">
      <View className="w-full max-w-2xl gap-6 self-center">
        <View className="items-center gap-3">
          <Mark size={52} />
          <Heading className="text-center">Hello. I am {bot.bot_name}.</Heading>
          <Text tone="muted" className="text-center">
            Ask me something, or tell me what to remember about you.
          </Text>
        </View>
        <View className="flex-row flex-wrap gap-3">
          {(bot.suspended ? [] : suggestionsFor(bot.vertical)).map((text, index) => (
            <Pressable
              key={text}
              testID={`suggestion-${index}`}
              role="button"
              aria-label={text}
              onPress={() => onPick(text)}
              className="min-w-64 grow basis-0 rounded-2xl border border-line bg-surface p-4 hover:border-edge active:bg-sunken"
            >
              <Text size="sm">{text}</Text>
            </Pressable>
          ))}
        </View>
      </View>
    </ScrollView>
  );
}
