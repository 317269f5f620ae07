// Name, e-mail, password; an invitation where the installation asks for one; a clear no where it is closed.

import { session } from '@/api/client';
import { useClientConfig } from '@/features/queries';
import { useDoor } from '@/features/session/use-door';
import { Banner } from '@/ui/banner';
import type { FieldProps } from '@/ui/field';
import { Skeleton } from '@/ui/spinner';
import { Door, DoorLink } from './door';
import { DoorForm, type DoorFormProps } from './door-form';
import { Fault } from './fault';

export function SignUp() {
  const config = useClientConfig();
  const closed = config.data?.signup === 'closed';
  return (
    <Door
      title="Get your assistant"
      line={closed ? 'Not here, for now.' : 'First an account. Then three questions, and it starts.'}
      testID="sign-up"
    >
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

const INVITATION: Partial<FieldProps> = { help: 'Accounts here are by invitation: paste the code that you were given.' };
const FIELDS: DoorFormProps['fields'] = [
  ['name'],
  ['email'],
  ['password', { autoComplete: 'new-password', help: 'At least 10 characters. A sentence is easier to remember than a puzzle.' }],
];

function Form({ invited }: { invited: boolean }) {
  return (
    <DoorForm
      door={useDoor()}
      name="sign-up"
      label="Create account"
      fields={invited ? [['invite', INVITATION], ...FIELDS] : FIELDS}
      send={({ invite, ...person }) => session.signUp(invited ? { ...person, invite } : person)}
    />
  );
}
