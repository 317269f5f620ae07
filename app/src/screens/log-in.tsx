// E-mail, password, in; or a mailed link for whoever forgot the password.

import { useState } from 'react';
import { View } from 'react-native';
import { session } from '@/api/client';
import { sentence } from '@/api/problem';
import { missingIn } from '@/features/session/forms';
import { useChange } from '@/features/queries';
import { useDoor } from '@/features/session/use-door';
import { useSession } from '@/features/session/use-session';
import { Banner } from '@/ui/banner';
import { Button } from '@/ui/button';
import { Text } from '@/ui/text';
import { Door, DoorLink } from './door';
import { DoorForm } from './door-form';

export function LogIn() {
  const door = useDoor();
  const state = useSession();
  const erased = state.status === 'signed-out' && state.erased;
  const line = door.next ? 'Log in, and you go on where you were.' : 'Your assistant has kept everything.';
  return (
    <Door
      title={erased ? 'Goodbye' : 'Welcome back'}
      line={erased ? 'Your account is deleted, and your assistants with it.' : line}
      testID="log-in"
    >
      <DoorForm
        door={door}
        name="log-in"
        label="Log in"
        fields={[['email'], ['password', { autoComplete: 'current-password' }]]}
        send={({ email, password }) => session.logIn({ email, password })}
        below={({ email }) => <MailLink email={email} />}
      />
      <DoorLink question="New here?" label="Sign up" to="/sign-up" testID="log-in-to-sign-up" />
    </Door>
  );
}

/** For whoever forgot the password. The answer is the same whether the address has an account or not. */
function MailLink({ email }: { email: string }) {
  const [wrong, setWrong] = useState<string | null>(null);
  const mail = useChange((to: string) => session.mailLink(to), []);
  const ask = () => {
    const missing = missingIn({ email, password: 'not needed here' });
    setWrong(missing ? 'Write your e-mail address above first.' : null);
    if (!missing) mail.mutate(email);
  };
  const fault = wrong ?? (mail.error ? sentence(mail.error) : null);
  return (
    <View className="gap-2">
      <Button kind="plain" small label="Mail me a link instead" onPress={ask} busy={mail.isPending} testID="log-in-mail-link" />
      {fault ? (
        <Banner kind="bad" testID="log-in-mail-fault">
          {fault}
        </Banner>
      ) : null}
      {mail.isSuccess && !fault ? (
        <Text size="sm" tone="muted" className="text-center" role="status" testID="log-in-mailed">
          If this address has an account here, a link is on its way. It works once, for a quarter of an hour.
        </Text>
      ) : null}
    </View>
  );
}
