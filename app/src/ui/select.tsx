// A choice out of a list, opened in a sheet; long lists can be searched.
// Never: more rows than a person scans; the search narrows them.

import { useState } from 'react';
import { Pressable, ScrollView, View } from 'react-native';
import { matches } from '@/features/wizard/timezones';
import { Dialog } from './dialog';
import { Field } from './field';
import { Icon } from './icon';
import { Text } from './text';

export interface Option {
  value: string;
  label: string;
  note?: string;
}

/** From here on a list gets a search field. */
const SEARCH_FROM = 9;
/** Rows drawn at once; with more, the search says that there are more. */
const ROWS_MAX = 60;

export function Select({
  label,
  value,
  options,
  onChange,
  testID,
  help,
}: {
  label: string;
  value: string;
  options: readonly Option[];
  onChange: (value: string) => void;
  testID: string;
  help?: string;
}) {
  const [open, setOpen] = useState(false);
  const chosen = options.find((option) => option.value === value);
  return (
    <View className="gap-1.5">
      <Text size="sm" weight="bold">
        {label}
      </Text>
      <Pressable
        testID={testID}
        role="button"
        aria-haspopup="dialog"
        aria-label={`${label}: ${chosen?.label ?? value}`}
        onPress={() => setOpen(true)}
        className="min-h-12 flex-row items-center justify-between gap-3 rounded-xl border-2 border-edge bg-surface px-4 py-2.5 hover:bg-sunken"
      >
        <Text className="shrink" numberOfLines={1}>
          {chosen?.label ?? value}
        </Text>
        <Icon name="down" color="muted" />
      </Pressable>
      {help ? (
        <Text size="sm" tone="muted">
          {help}
        </Text>
      ) : null}
      <Dialog open={open} title={label} onClose={() => setOpen(false)} testID={`${testID}-dialog`} still>
        <Options {...{ label, options, value, testID }} onChoose={(next) => (setOpen(false), onChange(next))} />
      </Dialog>
    </View>
  );
}

function Options({
  label,
  options,
  value,
  testID,
  onChoose,
}: {
  label: string;
  options: readonly Option[];
  value: string;
  testID: string;
  onChoose: (value: string) => void;
}) {
  const [search, setSearch] = useState('');
  const found = search.trim() ? options.filter((option) => matches(option.label, search)) : options;
  return (
    <>
      {options.length >= SEARCH_FROM ? (
        <View className="px-5 pb-3">
          <Field
            label="Search"
            testID={`${testID}-search`}
            value={search}
            onChangeText={setSearch}
            autoFocus
            autoCorrect={false}
            autoCapitalize="none"
          />
        </View>
      ) : null}
      <ScrollView contentContainerClassName="px-3 pb-4" keyboardShouldPersistTaps="handled">
        <View role="radiogroup" aria-label={label}>
          {found.slice(0, ROWS_MAX).map((option) => (
            <OptionRow
              key={option.value}
              option={option}
              chosen={option.value === value}
              testID={`${testID}-option-${option.value}`}
              onPress={() => onChoose(option.value)}
            />
          ))}
        </View>
        {found.length > ROWS_MAX ? (
          <Text size="sm" tone="muted" className="px-3 py-2">
            {found.length - ROWS_MAX} more: type to narrow the list.
          </Text>
        ) : null}
        {found.length === 0 ? (
          <Text tone="muted" className="px-3 py-4">
            Nothing fits “{search}”.
          </Text>
        ) : null}
      </ScrollView>
    </>
  );
}

function OptionRow({ option, chosen, testID, onPress }: { option: Option; chosen: boolean; testID: string; onPress: () => void }) {
  return (
    <Pressable
      testID={testID}
      role="radio"
      aria-checked={chosen}
      aria-label={option.label}
      onPress={onPress}
      className={`min-h-12 flex-row items-center justify-between gap-3 rounded-xl px-3 py-2 hover:bg-sunken ${chosen ? 'bg-accent-soft' : ''}`}
    >
      <View className="shrink">
        <Text>{option.label}</Text>
        {option.note ? (
          <Text size="sm" tone="muted">
            {option.note}
          </Text>
        ) : null}
      </View>
      {chosen ? <Icon name="check" color="accent-ink" /> : null}
    </Pressable>
  );
}
