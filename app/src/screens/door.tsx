// The frame that sign-up and log-in share.

import { Link, useLocalSearchParams, type Href } from 'expo-router';
import type { ReactNode } from 'react';
import { View } from 'react-native';
import { nextPath } from '@/features/session/forms';
import { Column } from '@/ui/layout';
import { Brand } from '@/ui/mark';
import { Heading, Text } from '@/ui/text';
import { useTitle } from '@/ui/title';

export function Door({ title, line, children, testID }: { title: string; line: string; children: ReactNode; testID: string }) {
  useTitle(title);
  return (
    <Column narrow middle testID={testID}>
      <Brand />
      <View className="gap-2">
        <Heading>{title}</Heading>
        <Text tone="muted">{line}</Text>
      </View>
      {children}
    </Column>
  );
}

/** "Already here? Log in", keeping the page that one came for. */
export function DoorLink({ question, label, to, testID }: { question: string; label: string; to: '/log-in' | '/sign-up'; testID: string }) {
  const { next } = useLocalSearchParams<{ next?: string }>();
  const params = nextPath(next) ? { next } : {};
  return (
    <View className="flex-row flex-wrap justify-center gap-x-2">
      <Text tone="muted">{question}</Text>
      <Link
        href={{ pathname: to, params } as Href}
        testID={testID}
        className="rounded text-base font-semibold leading-6 text-accent-ink underline"
      >
        {label}
      </Link>
    </View>
  );
}
