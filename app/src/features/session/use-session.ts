// The session, for components.

import { useSyncExternalStore } from 'react';
import { session } from '@/api/client';

export const useSession = () => useSyncExternalStore(session.subscribe, session.get, session.get);
