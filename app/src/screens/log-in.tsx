// E-mail, password, in.

import { useState } from 'react';
import { View } from 'react-native';
import { session } from '@/api/client';
import { missingIn } from '@/features/session/forms';
import { useDoor } from '@/features/session/use-door';
import { Banner } from '@/ui/banner';
import { Button } from '@/ui/button';
import { Field } from '@/ui/field';
import { Door, DoorLink } from './door';

export function LogIn() {
  const door = useDoor();
  const [email, setEmail] = useState('');
  const [password, setPassword] = useState('');
  const submit = () => void door.enter(missingIn({ email, password }), () => session.logIn({ email: email.trim(), password }));
  return (
    <Door title="Welcome back" line={door.next ? 'Log in, and you go on where you were.' : 'Your assistant has kept everything.'} testID="log-in">
      {door.above ? (
        <Banner kind="bad" testID="log-in-fault">
          {door.above}
        </Banner>
      ) : null}
      <View className="gap-4">
        <Field label="E-mail" testID="log-in-email" value={email} onChangeText={setEmail} fault={door.at('email')} inputMode="email" autoComplete="email" autoCapitalize="none" autoFocus onSubmitEditing={submit} />
        <Field label="Password" testID="log-in-password" value={password} onChangeText={setPassword} fault={door.at('password')} secureTextEntry autoComplete="current-password" onSubmitEditing={submit} />
        <Button label="Log in" onPress={submit} busy={door.busy} testID="log-in-submit" />
      </View>
      <DoorLink question="New here?" label="Sign up" to="/sign-up" testID="log-in-to-sign-up" />
    </Door>
  );
}
