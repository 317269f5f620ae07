// Where an assistant may go on the web, where it wanted to go, and the person's word about both.
// Never: a place that only this page opens; the server refuses what it does not allow.

import { useLocalSearchParams } from 'expo-router';
import { useState, type ReactNode } from 'react';
import { View } from 'react-native';
import { api } from '@/api/client';
import { Problem, sentence } from '@/api/problem';
import type { Allowed } from '@/api/types';
import { fullDate } from '@/features/chat/days';
import { allowedWord, refusedWord, typedDomain, wantedPlaces, type Wanted } from '@/features/egress/words';
import { keys, useChange, useEgress } from '@/features/queries';
import { Button, IconButton } from '@/ui/button';
import { Card } from '@/ui/card';
import { Field } from '@/ui/field';
import { Skeleton } from '@/ui/spinner';
import { Text } from '@/ui/text';
import { toast } from '@/ui/toast';
import { Fault } from './fault';
import { NotFound } from './not-found';
import { Page } from './page';

export function EgressPage() {
  const { bot } = useLocalSearchParams<{ bot: string }>();
  const egress = useEgress(bot);
  if (egress.error instanceof Problem && egress.error.status === 404) return <NotFound what="You have no assistant at this address." />;
  return (
    <Page title="Places on the web" testID="egress">
      <Text tone="muted">
        Where assistants are sealed off, yours reaches its models and the places below, and nothing else. What it knows of you could leave by
        a place that it may reach, so allow what you trust.
      </Text>
      {egress.isPending ? <Skeleton lines={6} /> : null}
      {egress.error ? <Fault error={egress.error} onRetry={() => void egress.refetch()} testID="egress-fault" /> : null}
      {egress.data ? (
        <>
          <RefusedList bot={bot} places={wantedPlaces(egress.data.refused)} />
          <AllowedList bot={bot} allowed={egress.data.allowed} />
          <Add bot={bot} />
        </>
      ) : null}
    </Page>
  );
}

function Line({ first, name, word, children, testID }: { first: boolean; name: string; word: string; children?: ReactNode; testID: string }) {
  return (
    <View
      role="listitem"
      testID={testID}
      className={`min-h-14 flex-row flex-wrap items-center gap-x-3 gap-y-1 py-2 ${first ? '' : 'border-t border-line'}`}
    >
      <View className="min-w-48 shrink grow basis-0">
        <Text weight="medium" className="break-all">
          {name}
        </Text>
        <Text size="sm" tone="muted">
          {word}
        </Text>
      </View>
      <View className="ml-auto flex-row items-center gap-2">{children}</View>
    </View>
  );
}

function RefusedList({ bot, places }: { bot: string; places: Wanted[] }) {
  return (
    <Card title="Wanted and refused">
      {places.length ? (
        <View role="list">
          {places.map((place, index) => (
            <RefusedLine key={place.domain} bot={bot} place={place} first={index === 0} />
          ))}
        </View>
      ) : (
        <Text tone="muted" testID="egress-refused-empty">
          Nothing was refused in the last thirty days.
        </Text>
      )}
    </Card>
  );
}

function RefusedLine({ bot, place, first }: { bot: string; place: Wanted; first: boolean }) {
  const { domain } = place;
  const allow = useChange(() => api.allowDomain(bot, domain), [keys.egress(bot)]);
  const yes = () =>
    allow.mutate(undefined, {
      onSuccess: () => toast(`${domain} is allowed.`),
      onError: (error) => toast(sentence(error), 'bad'),
    });
  return (
    <Line first={first} name={domain} word={`${refusedWord(place)}, last on ${fullDate(place.last_at)}.`} testID={`egress-refused-${domain}`}>
      {place.can_allow ? (
        <Button
          small
          kind="quiet"
          label="Allow"
          hint={`Allow ${domain}`}
          onPress={yes}
          busy={allow.isPending}
          testID={`egress-allow-${domain}`}
        />
      ) : null}
    </Line>
  );
}

function AllowedList({ bot, allowed }: { bot: string; allowed: Allowed[] }) {
  return (
    <Card title="Allowed">
      {allowed.length ? (
        <View role="list">
          {allowed.map((one, index) => (
            <AllowedLine key={`${one.source} ${one.domain}`} bot={bot} allowed={one} first={index === 0} />
          ))}
        </View>
      ) : (
        <Text tone="muted" testID="egress-allowed-empty">
          Nothing yet. When your assistant wants to reach something, you are asked in the chat.
        </Text>
      )}
    </Card>
  );
}

function AllowedLine({ bot, allowed, first }: { bot: string; allowed: Allowed; first: boolean }) {
  const { domain, source, since } = allowed;
  const remove = useChange(() => api.takeBackDomain(bot, domain), [keys.egress(bot)]);
  const go = () =>
    remove.mutate(undefined, {
      onSuccess: () => toast(`${domain} is closed again.`),
      onError: (error) => toast(sentence(error), 'bad'),
    });
  const word = since ? `${allowedWord(allowed)}, since ${fullDate(since)}.` : `${allowedWord(allowed)}.`;
  return (
    <Line first={first} name={domain} word={word} testID={`egress-allowed-${domain}`}>
      {source === 'you' ? (
        <IconButton icon="trash" label={`Take ${domain} back`} onPress={go} disabled={remove.isPending} testID={`egress-remove-${domain}`} />
      ) : null}
    </Line>
  );
}

function Add({ bot }: { bot: string }) {
  const [typed, setTyped] = useState('');
  const allow = useChange((domain: string) => api.allowDomain(bot, domain), [keys.egress(bot)]);
  const domain = typedDomain(typed);
  const save = () =>
    domain &&
    allow.mutate(domain, {
      onSuccess: (made) => {
        setTyped('');
        toast(`${made.domain} is allowed.`);
      },
    });
  return (
    <Card title="Allow a place">
      <Field
        label="Domain"
        testID="egress-domain"
        value={typed}
        onChangeText={(text) => (setTyped(text), allow.reset())}
        onSubmitEditing={save}
        placeholder="example.org"
        autoCapitalize="none"
        autoCorrect={false}
        inputMode="url"
        help="This name only: www.example.org is another one."
        fault={allow.error ? sentence(allow.error) : null}
      />
      <View className="flex-row">
        <Button label="Allow" onPress={save} busy={allow.isPending} disabled={!domain} testID="egress-add" />
      </View>
    </Card>
  );
}
