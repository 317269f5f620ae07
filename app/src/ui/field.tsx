// A labelled text field with its help and its fault.
// Never: a fault that a screen reader does not hear, or a placeholder in place of a label.

import { useId, useState } from 'react';
import { TextInput, View, type TextInputProps } from 'react-native';
import { useColor } from './color';
import { Text } from './text';

export interface FieldProps extends TextInputProps {
  label: string;
  testID: string;
  help?: string;
  fault?: string | null;
}

export function Field({ label, help, fault, testID, ...input }: FieldProps) {
  const id = useId();
  const [focused, setFocused] = useState(false);
  const placeholder = useColor('muted');
  const note = fault ?? help;
  const edge = fault ? 'border-bad' : focused ? 'border-accent' : 'border-edge';
  return (
    <View className="gap-1.5">
      <Text size="sm" weight="bold" nativeID={`${id}-label`}>
        {label}
      </Text>
      <TextInput
        {...input}
        testID={testID}
        aria-label={label}
        aria-labelledby={`${id}-label`}
        {...{ 'aria-invalid': Boolean(fault), 'aria-describedby': note ? `${id}-note` : undefined }}
        placeholderTextColor={placeholder}
        onFocus={(event) => (setFocused(true), input.onFocus?.(event))}
        onBlur={(event) => (setFocused(false), input.onBlur?.(event))}
        className={`min-h-12 rounded-xl border-2 bg-surface px-4 py-2.5 text-base text-ink ${edge}`}
      />
      {note ? (
        <Text
          size="sm"
          tone={fault ? 'bad' : 'muted'}
          nativeID={`${id}-note`}
          role={fault ? 'alert' : undefined}
          testID={fault ? `${testID}-fault` : undefined}
        >
          {note}
        </Text>
      ) : null}
    </View>
  );
}
