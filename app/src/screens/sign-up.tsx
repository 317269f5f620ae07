// Name, e-mail, password; an invitation where the installation asks for one; a clear no where it is closed.

import { useState } from 'react';
import { View } from 'react-native';
import { session } from '@/api/client';
import { useClientConfig } from '@/features/queries';
import { missingIn } from '@/features/session/forms';
import { useDoor } from '@/features/session/use-door';
import { Banner } from '@/ui/banner';
import { Button } from '@/ui/button';
import { Field } from '@/ui/field';
import { Skeleton } from '@/ui/spinner';
import { Door, DoorLink } from './door';
import { Fault } from './fault';

export function SignUp() {
  const config = useClientConfig();
  const closed = config.data?.signup === 'closed';
  return (
    <Door title="Get your assistant" line="First an account. Then three questions, and it starts." testID="sign-up">
      {config.error ? <Fault error={config.error} onRetry={() => void config.refetch()} testID="sign-up-unreachable" /> : null}
      {config.isPending ? <Skeleton lines={4} /> : null}
      {closed ? (
        <Banner kind="warn" testID="sign-up-closed">
          This installation does not take new accounts. Ask the person who runs it.
        </Banner>
      ) : null}
      {config.data && !closed ? <Form invited={config.data.signup === 'invite'} /> : null}
      <DoorLink question="Already here?" label="Log in" to="/log-in" testID="sign-up-to-log-in" />
    </Door>
  );
}

function Form({ invited }: { invited: boolean }) {
  const door = useDoor();
  const [name, setName] = useState('');
  const [email, setEmail] = useState('');
  const [password, setPassword] = useState('');
  const [invite, setInvite] = useState('');
  const submit = () => {
    const form = { name: name.trim(), email: email.trim(), password };
    void door.enter(missingIn(form), () => session.signUp(invited ? { ...form, invite: invite.trim() } : form));
  };
  return (
    <View className="gap-4">
      {door.above ? (
        <Banner kind="bad" testID="sign-up-fault">
          {door.above}
        </Banner>
      ) : null}
      {invited ? (
        <Field
          label="Invitation"
          testID="sign-up-invite"
          value={invite}
          onChangeText={setInvite}
          fault={door.at('invite')}
          help="Accounts here are by invitation: paste the code that you were given."
          autoCapitalize="none"
          autoCorrect={false}
        />
      ) : null}
      <Field
        label="Your name"
        testID="sign-up-name"
        value={name}
        onChangeText={setName}
        fault={door.at('name')}
        autoComplete="name"
        autoFocus
        onSubmitEditing={submit}
      />
      <Field
        label="E-mail"
        testID="sign-up-email"
        value={email}
        onChangeText={setEmail}
        fault={door.at('email')}
        inputMode="email"
        autoComplete="email"
        autoCapitalize="none"
        onSubmitEditing={submit}
      />
      <Field
        label="Password"
        testID="sign-up-password"
        value={password}
        onChangeText={setPassword}
        fault={door.at('password')}
        help="At least 10 characters. A sentence is easier to remember than a puzzle."
        secureTextEntry
        autoComplete="new-password"
        onSubmitEditing={submit}
      />
      <Button label="Create account" onPress={submit} busy={door.busy} testID="sign-up-submit" />
    </View>
  );
}
