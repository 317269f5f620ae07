// The question before something that cannot be brought back: what is lost, and a word to type.
// Never: an answer by a single press, or a word that a person has to guess.

import { useEffect, useState, type ReactNode } from 'react';
import { View } from 'react-native';
import { sentence } from '@/api/problem';
import { Button } from '@/ui/button';
import { Dialog } from '@/ui/dialog';
import { Field } from '@/ui/field';

export interface TypeToConfirmProps {
  open: boolean;
  title: string;
  /** What has to be typed; small and large letters are the same. */
  word: string;
  label: string;
  /** What is lost. */
  children: ReactNode;
  onConfirm: () => void;
  onClose: () => void;
  busy: boolean;
  error: unknown;
  testID: string;
}

export function TypeToConfirm({ open, title, word, label, children, onConfirm, onClose, busy, error, testID }: TypeToConfirmProps) {
  const [typed, setTyped] = useState('');
  useEffect(() => setTyped(''), [open]);
  const sure = typed.trim().toLowerCase() === word.trim().toLowerCase();
  const confirm = () => sure && !busy && onConfirm();
  return (
    <Dialog open={open} title={title} onClose={onClose} testID={`${testID}-dialog`}>
      {children}
      <Field
        label={`Type “${word.trim()}” to confirm`}
        testID={`${testID}-name`}
        value={typed}
        onChangeText={setTyped}
        onSubmitEditing={confirm}
        autoCorrect={false}
        autoCapitalize="none"
        autoComplete="off"
        fault={error ? sentence(error) : null}
      />
      <View className="flex-row gap-3">
        <Button kind="quiet" label="Keep it" onPress={onClose} testID={`${testID}-cancel`} grow />
        <Button kind="danger" label={label} onPress={confirm} disabled={!sure} busy={busy} testID={`${testID}-confirm`} grow />
      </View>
    </Dialog>
  );
}
