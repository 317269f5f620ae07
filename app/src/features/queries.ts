// What the app has read from the API, kept and read again when an event says that it changed.
// Never: a copy that a screen edits; screens edit drafts and send them.

import { QueryClient, useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useEffect } from 'react';
import { api, session } from '@/api/client';
import { listen, type LiveEvent } from '@/api/events';
import { isUnreachable, Problem } from '@/api/problem';
import type { Bot } from '@/api/types';

/** While a bot starts, its steps are read this often even if no event comes. */
const STARTING_POLL_MS = 3_000;
/** Tries again after an answer that never came; a refusal is not asked twice. */
const TRIES_MAX = 3;

export const queryClient = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 30_000,
      retry: (failures, error) => failures < TRIES_MAX && (isUnreachable(error) || (error instanceof Problem && error.status >= 500)),
    },
  },
});

export const keys = {
  config: ['config'],
  me: ['me'],
  bots: ['bots'],
  bot: (id: string) => ['bots', id],
  conversations: (id: string) => ['conversations', id],
  egress: (id: string) => ['egress', id],
  models: ['models'],
  usage: ['usage'],
} as const;

const isStarting = (bot: Bot | undefined) => bot?.status === 'provisioning' && bot.phase !== 'awaiting_plan';

export const useClientConfig = () => useQuery({ queryKey: keys.config, queryFn: api.clientConfig, staleTime: 300_000 });
export const useMe = () => useQuery({ queryKey: keys.me, queryFn: api.me });
export const useBots = () => useQuery({ queryKey: keys.bots, queryFn: api.bots });
export const useModels = () => useQuery({ queryKey: keys.models, queryFn: api.models, staleTime: 300_000 });
export const useUsage = () => useQuery({ queryKey: keys.usage, queryFn: api.usage, staleTime: 0 });
export const useEgress = (id: string) => useQuery({ queryKey: keys.egress(id), queryFn: () => api.egress(id), networkMode: 'always' });
export const useConversations = (id: string) => useQuery({ queryKey: keys.conversations(id), queryFn: () => api.conversations(id) });

export const useBot = (id: string) =>
  useQuery({
    queryKey: keys.bot(id),
    queryFn: () => api.bot(id),
    refetchInterval: (query) => (isStarting(query.state.data) ? STARTING_POLL_MS : false),
  });

/** Something that changes the server, and what has to be read again after it. */
export function useChange<Input, Answer>(work: (input: Input) => Promise<Answer>, stale: readonly (readonly unknown[])[]) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: work,
    // Without a connection it fails at once and says so, instead of waiting unseen.
    networkMode: 'always',
    onSettled: () => Promise.all(stale.map((queryKey) => client.invalidateQueries({ queryKey }))),
  });
}

/** Follows GET /api/events while somebody is signed in. */
export function useLiveEvents(): void {
  useEffect(
    () =>
      listen({
        fetch: (...args) => fetch(...args),
        token: () => session.token(),
        renew: (token) => session.renew(token),
        onOpen: () => [keys.bots, ['egress']].forEach((queryKey) => void queryClient.invalidateQueries({ queryKey })),
        onEvent: readAgain,
      }),
    [],
  );
}

function readAgain({ kind, bot_id, frame }: LiveEvent): void {
  const stale = (queryKey: readonly unknown[]) => void queryClient.invalidateQueries({ queryKey });
  if (kind.startsWith('bot.') || kind === 'plan.changed') stale(keys.bots);
  if (kind.startsWith('bot.egress_')) stale(bot_id ? keys.egress(bot_id) : ['egress']);
  if (kind === 'plan.changed') stale(keys.me);
  if (kind === 'conversation.changed') stale(bot_id ? keys.conversations(bot_id) : ['conversations']);
  if (kind === 'usage' || frame === 'usage' || kind === 'cap.changed' || kind === 'plan.changed') stale(keys.usage);
}
