// The fields of sign-up and log-in, one after the other, and the button under them.
// Never: a rule of its own about what is missing (forms.ts and the server have them), or a fault away from its field.

import { useState, type ReactNode } from 'react';
import { View } from 'react-native';
import { missingIn, type AuthField } from '@/features/session/forms';
import type { useDoor } from '@/features/session/use-door';
import { Banner } from '@/ui/banner';
import { Button } from '@/ui/button';
import { Field, type FieldProps } from '@/ui/field';

export type Answers = Record<AuthField, string>;

const KINDS: Record<AuthField, Omit<FieldProps, 'testID'>> = {
  invite: { label: 'Invitation', autoCapitalize: 'none', autoCorrect: false },
  name: { label: 'Your name', autoComplete: 'name' },
  email: { label: 'E-mail', inputMode: 'email', autoComplete: 'email', autoCapitalize: 'none' },
  password: { label: 'Password', secureTextEntry: true },
};

export interface DoorFormProps {
  door: ReturnType<typeof useDoor>;
  /** What stands before every test id: `log-in` or `sign-up`. */
  name: string;
  /** In their order on the page, each with what is special about it here. */
  fields: readonly [AuthField, Partial<FieldProps>?][];
  label: string;
  send: (answers: Answers) => Promise<void>;
  /** What stands under the button. */
  below?: (answers: Answers) => ReactNode;
}

export function DoorForm({ door, name, fields, label, send, below }: DoorFormProps) {
  const [typed, setTyped] = useState<Answers>({ invite: '', name: '', email: '', password: '' });
  // A password may well begin or end with a space.
  const answers = { invite: typed.invite.trim(), name: typed.name.trim(), email: typed.email.trim(), password: typed.password };
  const asked = fields.map(([field]) => field);
  const submit = () => {
    const { email, password } = answers;
    void door.enter(missingIn(asked.includes('name') ? { email, password, name: answers.name } : { email, password }), () => send(answers));
  };
  return (
    <View className="gap-4">
      {door.above ? (
        <Banner kind="bad" testID={`${name}-fault`}>
          {door.above}
        </Banner>
      ) : null}
      {fields.map(([field, special]) => (
        <Field
          key={field}
          {...KINDS[field]}
          {...special}
          testID={`${name}-${field}`}
          value={typed[field]}
          onChangeText={(text) => setTyped({ ...typed, [field]: text })}
          fault={door.at(field)}
          autoFocus={field === asked[0]}
          onSubmitEditing={submit}
        />
      ))}
      <Button label={label} onPress={submit} busy={door.busy} testID={`${name}-submit`} />
      {below?.(answers)}
    </View>
  );
}
