// How much of the monthly cap is spent, and the cap itself.
// Never: a cap that only this page knows; the server refuses what it does not allow.

import { useState } from 'react';
import { View } from 'react-native';
import { api } from '@/api/client';
import { sentence } from '@/api/problem';
import type { Usage } from '@/api/types';
import { keys, useChange } from '@/features/queries';
import { exactUsd, roundUsd, typedUsd, usedOf } from '@/features/usage/money';
import { Button } from '@/ui/button';
import { Card } from '@/ui/card';
import { Field } from '@/ui/field';
import { Meter } from '@/ui/meter';
import { Text } from '@/ui/text';
import { toast } from '@/ui/toast';

/** From here on the bar warns, in thousandths of the cap. */
const NEAR = 800;
const FULL = 1000;

export function CapCard({ usage }: { usage: Usage }) {
  return (
    <Card title="Monthly cap on usage">
      <Spent usage={usage} />
      <Text tone="muted">
        When usage reaches it, your assistant says so and waits until you raise it or the month ends. The highest possible here is{' '}
        {roundUsd(usage.cap_max_usd)}.
      </Text>
      <SetCap usage={usage} />
    </Card>
  );
}

function Spent({ usage }: { usage: Usage }) {
  const used = usedOf(usage.usage_usd, usage.cap_usd);
  const tone = used >= FULL ? 'bad' : used >= NEAR ? 'warn' : 'accent';
  const words = `${exactUsd(usage.usage_usd)} of ${roundUsd(usage.cap_usd)}`;
  return (
    <View className="gap-2" testID="usage-spent">
      <View className="flex-row flex-wrap justify-between gap-x-4">
        <Text className="tabular-nums">{words}</Text>
        <Text tone={tone === 'accent' ? 'muted' : tone} weight={tone === 'accent' ? 'normal' : 'bold'}>
          {used >= FULL ? 'Reached: answers wait' : used >= NEAR ? 'Nearly reached' : `${Math.floor(used / 10)} %`}
        </Text>
      </View>
      <Meter label="Spent of the cap" words={words} thousandths={used} color={tone} testID="usage-meter" />
    </View>
  );
}

function SetCap({ usage }: { usage: Usage }) {
  const [typed, setTyped] = useState(exactUsd(usage.cap_usd).slice(1));
  const [wrong, setWrong] = useState<string | null>(null);
  const change = useChange(api.setCap, [keys.usage]);
  const save = () => {
    const cap = typedUsd(typed);
    setWrong(cap === null ? 'Write an amount such as 20 or 12.50.' : null);
    if (cap !== null) change.mutate(cap, { onSuccess: () => toast('The cap is set.') });
  };
  return (
    <>
      <Field
        label="Dollars a month"
        testID="usage-cap"
        value={typed}
        onChangeText={setTyped}
        onSubmitEditing={save}
        inputMode="decimal"
        fault={wrong ?? (change.error ? sentence(change.error) : null)}
      />
      <View className="flex-row">
        <Button label="Set the cap" onPress={save} busy={change.isPending} testID="usage-cap-save" />
      </View>
    </>
  );
}
