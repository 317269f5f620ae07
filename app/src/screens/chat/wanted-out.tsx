// The quiet line above the chat when the assistant wanted to reach a place on the web that nobody allowed.
// Never: a second question about a place that the person has answered.

import { router } from 'expo-router';
import { View } from 'react-native';
import { api } from '@/api/client';
import { sentence } from '@/api/problem';
import type { Bot } from '@/api/types';
import { question, toAsk } from '@/features/egress/words';
import { keys, useChange, useEgress } from '@/features/queries';
import { Button } from '@/ui/button';
import { Icon } from '@/ui/icon';
import { Text } from '@/ui/text';
import { toast } from '@/ui/toast';

export function WantedOut({ bot }: { bot: Bot }) {
  const asked = toAsk(useEgress(bot.id).data);
  const stale = [keys.egress(bot.id)];
  const allow = useChange((domain: string) => api.allowDomain(bot.id, domain), stale);
  const dismiss = useChange((domain: string) => api.dismissRefusals(bot.id, domain), stale);
  const domain = asked[0]?.domain;
  if (!domain) return null;
  const onError = (error: unknown) => toast(sentence(error), 'bad');
  const yes = () => allow.mutate(domain, { onSuccess: () => toast(`${bot.bot_name} may reach ${domain} now. Ask for it again.`), onError });
  const no = () => dismiss.mutate(domain, { onError });
  const busy = allow.isPending || dismiss.isPending;
  return (
    <View className="w-full border-b border-line px-3 py-2">
      <View
        testID="chat-wanted"
        role="status"
        className="w-full max-w-3xl flex-row flex-wrap items-center gap-x-3 gap-y-2 self-center rounded-xl bg-sunken px-4 py-3"
      >
        <View className="shrink-0">
          <Icon name="shield" color="muted" />
        </View>
        <Text size="sm" className="min-w-48 shrink grow basis-0">
          {question(bot.bot_name, asked)}
        </Text>
        <View className="ml-auto flex-row flex-wrap items-center gap-2">
          {asked.length > 1 ? (
            <Button
              small
              kind="plain"
              label="See all"
              hint="See all places"
              onPress={() => router.push({ pathname: '/bots/[bot]/egress', params: { bot: bot.id } })}
              testID="chat-wanted-all"
            />
          ) : null}
          <Button small kind="plain" label="Not now" hint={`Not now: ${domain}`} onPress={no} disabled={busy} testID="chat-wanted-no" />
          <Button
            small
            kind="quiet"
            label="Allow"
            hint={`Allow ${domain}`}
            onPress={yes}
            busy={allow.isPending}
            disabled={dismiss.isPending}
            testID="chat-wanted-allow"
          />
        </View>
      </View>
    </View>
  );
}
