// Going through the door: send the form, put a fault where it belongs, then go where the person wanted to.

import { router, useLocalSearchParams, type Href } from 'expo-router';
import { useState } from 'react';
import { goTo } from '../leave';
import { queryClient } from '../queries';
import { faultOf, nextPath, type AuthField, type FormFault } from './forms';

export function useDoor() {
  const { next } = useLocalSearchParams<{ next?: string }>();
  const [busy, setBusy] = useState(false);
  const [fault, setFault] = useState<FormFault | null>(null);
  const enter = async (missing: FormFault | null, work: () => Promise<void>) => {
    setFault(missing);
    if (missing) return;
    setBusy(true);
    try {
      queryClient.clear();
      await work();
      leave(nextPath(next));
    } catch (error) {
      setFault(faultOf(error));
    } finally {
      setBusy(false);
    }
  };
  const at = (field: AuthField) => (fault?.field === field ? fault.text : null);
  return { busy, enter, at, above: fault && !fault.field ? fault.text : null, next: nextPath(next) };
}

/** Pages of the app without a reload; other pages of this server (the payments page) with one. */
function leave(next: string | null): void {
  if (next && !next.startsWith('/app')) goTo(next);
  else router.replace((next?.slice('/app'.length) || '/') as Href);
}
