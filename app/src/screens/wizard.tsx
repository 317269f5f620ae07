// Three questions, one at a time: what for, what name, which clock.

import { router } from 'expo-router';
import { useMemo, useState } from 'react';
import { View } from 'react-native';
import { api } from '@/api/client';
import { newId } from '@/api/id';
import { Problem, sentence } from '@/api/problem';
import { keys, useChange } from '@/features/queries';
import { allTimezones, browserTimezone, zoneLabel } from '@/features/wizard/timezones';
import { VERTICALS } from '@/features/wizard/verticals';
import { missing, STEPS, type Answers, type WizardStep } from '@/features/wizard/wizard';
import { Banner } from '@/ui/banner';
import { Button } from '@/ui/button';
import { ChoiceCard } from '@/ui/choice';
import { Field } from '@/ui/field';
import { Column } from '@/ui/layout';
import { Brand } from '@/ui/mark';
import { Select } from '@/ui/select';
import { Heading, Text } from '@/ui/text';
import { useTitle } from '@/ui/title';

const TITLES: Record<WizardStep, [title: string, line: string]> = {
  vertical: ['What will it help you with?', 'It sets the tone of the first day. You can ask for anything.'],
  name: ['What is it called?', 'You can change the name later.'],
  timezone: ['Where is your clock?', 'So that “tomorrow at nine” means your tomorrow.'],
};

export function Wizard() {
  const [index, setIndex] = useState(0);
  const [fault, setFault] = useState<string | null>(null);
  const [answers, setAnswers] = useState<Answers>({ vertical: null, name: '', timezone: browserTimezone() });
  const [key, setKey] = useState(newId);
  const create = useChange(api.createBot, [keys.bots]);
  const step = STEPS[index]!;
  useTitle(TITLES[step][0]);
  const last = index === STEPS.length - 1;
  const answer = (change: Partial<Answers>) => (setFault(null), setKey(newId()), setAnswers({ ...answers, ...change }));

  const next = async () => {
    const lacking = missing(step, answers);
    setFault(lacking);
    if (lacking || !answers.vertical) return;
    if (!last) return setIndex(index + 1);
    try {
      const { vertical, timezone } = answers;
      const bot = await create.mutateAsync({ key, bot_name: answers.name.trim(), vertical, timezone });
      router.replace({ pathname: '/bots/[bot]', params: { bot: bot.id } });
    } catch (error) {
      if (error instanceof Problem && error.field === 'bot_name') setIndex(STEPS.indexOf('name'));
      setFault(sentence(error));
    }
  };

  return (
    <Column narrow testID="wizard">
      <View className="flex-row items-center justify-between">
        <Brand />
        <Text size="sm" tone="muted" testID="wizard-progress">
          {index + 1} of {STEPS.length}
        </Text>
      </View>
      <View className="flex-row gap-2" aria-hidden>
        {STEPS.map((name, at) => (
          <View key={name} className={`h-1.5 grow rounded-full ${at <= index ? 'bg-accent' : 'bg-line'}`} />
        ))}
      </View>
      <View className="gap-2">
        <Heading>{TITLES[step][0]}</Heading>
        <Text tone="muted">{TITLES[step][1]}</Text>
      </View>
      <Question step={step} answers={answers} answer={answer} fault={fault} onNext={() => void next()} />
      {fault && step !== 'name' ? (
        <Banner kind="bad" testID="wizard-fault">
          {fault}
        </Banner>
      ) : null}
      <View className="flex-row gap-3">
        {index > 0 ? <Button kind="quiet" label="Back" onPress={() => (setFault(null), setIndex(index - 1))} testID="wizard-back" /> : null}
        <Button
          label={last ? 'Create my assistant' : 'Next'}
          onPress={() => void next()}
          busy={create.isPending}
          testID="wizard-next"
          grow
        />
      </View>
    </Column>
  );
}

function Question({
  step,
  answers,
  answer,
  fault,
  onNext,
}: {
  step: WizardStep;
  answers: Answers;
  answer: (change: Partial<Answers>) => void;
  fault: string | null;
  onNext: () => void;
}) {
  const zones = useMemo(() => allTimezones(browserTimezone()).map((zone) => ({ value: zone, label: zoneLabel(zone, new Date()) })), []);
  if (step === 'name') {
    return (
      <Field
        label="Name"
        testID="wizard-name"
        value={answers.name}
        onChangeText={(name) => answer({ name })}
        fault={fault}
        placeholder="Pearl, for example"
        autoFocus
        autoCorrect={false}
        onSubmitEditing={onNext}
      />
    );
  }
  if (step === 'timezone') {
    return (
      <Select
        label="Time zone"
        testID="wizard-timezone"
        value={answers.timezone}
        options={zones}
        onChange={(timezone) => answer({ timezone })}
        help="Taken from your browser. Change it if you live elsewhere."
      />
    );
  }
  return (
    <View role="radiogroup" aria-label={TITLES.vertical[0]} className="gap-3">
      {VERTICALS.map(({ id, title, line }) => (
        <ChoiceCard
          key={id}
          title={title}
          line={line}
          chosen={answers.vertical === id}
          onPress={() => answer({ vertical: id })}
          testID={`wizard-vertical-${id}`}
        />
      ))}
    </View>
  );
}
