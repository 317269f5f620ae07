// Where the link of a mail leads: it logs in, or says why it cannot.
// Never: the token left in the address after it was read.

import { router } from 'expo-router';
import { useEffect, useRef, useState } from 'react';
import { session } from '@/api/client';
import { sentence } from '@/api/problem';
import { queryClient } from '@/features/queries';
import { Banner } from '@/ui/banner';
import { Button } from '@/ui/button';
import { Spinner } from '@/ui/spinner';
import { Door } from './door';

export function FollowLink() {
  const [fault, setFault] = useState<string | null>(null);
  const asked = useRef(false);
  useEffect(() => {
    if (asked.current) return;
    asked.current = true;
    const token = window.location.hash.slice(1);
    window.history.replaceState(window.history.state, '', window.location.pathname);
    queryClient.clear();
    session.followLink(token).then(
      () => router.replace('/'),
      (error: unknown) => setFault(sentence(error)),
    );
  }, []);
  return (
    <Door title={fault ? 'This link does not work' : 'One moment'} line={fault ? 'Links work once, and not for long.' : 'You are being logged in.'} testID="link">
      {fault ? (
        <>
          <Banner kind="bad" testID="link-fault">
            {fault}
          </Banner>
          <Button label="Go to log-in" onPress={() => router.replace('/log-in')} testID="link-to-log-in" />
        </>
      ) : (
        <Spinner large />
      )}
    </Door>
  );
}
