// The chat with one assistant: side panel, conversation, composer.

import { router, useLocalSearchParams } from 'expo-router';
import { useEffect, useMemo, useRef, useState, type ReactNode } from 'react';
import { Modal, Pressable, View } from 'react-native';
import { api } from '@/api/client';
import { sentence } from '@/api/problem';
import type { Bot } from '@/api/types';
import { awayWord, closedWord } from '@/features/bots/face';
import type { Link } from '@/features/chat/connection';
import { conversationTitle } from '@/features/chat/conversations';
import type { Turn } from '@/features/chat/turns';
import { useChat, type ChatView } from '@/features/chat/use-chat';
import { keys, useChange, useConversations } from '@/features/queries';
import { Banner } from '@/ui/banner';
import { Button, IconButton } from '@/ui/button';
import { useIsDesk } from '@/ui/layout';
import { useTitle } from '@/ui/title';
import { Skeleton } from '@/ui/spinner';
import { Heading, Text } from '@/ui/text';
import { toast } from '@/ui/toast';
import { Composer } from './composer';
import { EmptyChat } from './empty';
import { Sidebar } from './sidebar';
import type { TurnActions } from './turn';
import { TurnList } from './turn-list';
import { UnusualUse } from './unusual-use';
import { WantedOut } from './wanted-out';

/** Shorter breaks of the connection are not worth a word. */
const OFFLINE_AFTER_MS = 2_000;

export function ChatPage({ bot }: { bot: Bot }) {
  const desk = useIsDesk();
  const [beside, setBeside] = useState(true);
  const [drawer, setDrawer] = useState(false);
  const panel = desk ? beside : drawer;
  const { c } = useLocalSearchParams<{ c?: string }>();
  const conversation = c || 'main';
  const view = useChat(bot.id, conversation, (code, message) => {
    toast(message, 'bad');
    if (code === 'unknown_conversation') router.setParams({ c: undefined });
  });
  useTitle(bot.bot_name);
  const drafts = useRef(new Map<string, string>());
  const choose = (id: string) => {
    setDrawer(false);
    router.setParams({ c: id === 'main' ? undefined : id });
  };
  const sidebar = (
    <Sidebar
      bot={bot}
      current={conversation}
      onChoose={choose}
      onArchived={(away) => away === conversation && choose('main')}
      onDeleted={(gone) => {
        view.chat?.forget(gone);
        if (gone === conversation) choose('main');
      }}
    />
  );
  return (
    <View className="flex-1 flex-row bg-paper" testID="chat">
      {desk && panel ? <View className="w-72 border-r border-line">{sidebar}</View> : null}
      {desk ? null : (
        <Drawer open={drawer} onClose={() => setDrawer(false)}>
          {sidebar}
        </Drawer>
      )}
      <View className="flex-1" role="main">
        <Header bot={bot} conversation={conversation} panel={panel} onPanel={() => (desk ? setBeside(!beside) : setDrawer(!drawer))} />
        <Away bot={bot} link={view.link} />
        <UnusualUse bot={bot} />
        <WantedOut bot={bot} />
        <Talk key={conversation} bot={bot} conversation={conversation} view={view} drafts={drafts.current} />
      </View>
    </View>
  );
}

function Header({ bot, conversation, panel, onPanel }: { bot: Bot; conversation: string; panel: boolean; onPanel: () => void }) {
  const listed = useConversations(bot.id).data?.items.find(({ id }) => id === conversation);
  const paused = bot.status === 'running' && bot.unusual?.caution === 'paused';
  const dot = paused ? 'bg-warn' : bot.status === 'running' ? 'bg-good' : bot.status === 'error' ? 'bg-bad' : 'bg-warn';
  return (
    <View className="flex-row items-center gap-2 border-b border-line px-2 py-1.5">
      <IconButton
        icon="menu"
        label={panel ? 'Hide the side panel' : 'Show the side panel'}
        expanded={panel}
        onPress={onPanel}
        testID="chat-menu"
      />
      <View className="shrink grow">
        <View className="flex-row items-center gap-2">
          <Heading size="base" weight="bold" numberOfLines={1} className="shrink">
            {bot.bot_name}
          </Heading>
          <View className={`h-2 w-2 rounded-full ${dot}`} aria-hidden />
          <Text size="xs" tone="muted" className="shrink-0" numberOfLines={1} testID="bot-status">
            {statusWord(bot, paused)}
          </Text>
        </View>
        <Text size="xs" tone="muted" numberOfLines={1} testID="chat-title">
          {conversationTitle(listed ?? { id: conversation, title: '' })}
          {listed?.archived ? ' · archived' : ''}
        </Text>
      </View>
    </View>
  );
}

function statusWord(bot: Bot, paused: boolean): string {
  if (bot.suspended) return 'suspended';
  if (paused) return 'paused';
  if (bot.status === 'provisioning') return 'starting';
  return bot.status === 'error' ? 'needs you' : bot.status;
}

function Away({ bot, link }: { bot: Bot; link: Link }) {
  const restart = useChange(() => api.restartBot(bot.id), [keys.bots]);
  const resume = useChange(() => api.resumeBot(bot.id), [keys.bots]);
  const offline = useLasting(link !== 'online', OFFLINE_AFTER_MS);
  const word = awayWord(bot);
  const again = () => restart.mutate(undefined, { onError: (error) => toast(sentence(error), 'bad') });
  const start = () => resume.mutate(undefined, { onError: (error) => toast(sentence(error), 'bad') });
  if (!offline && !word) return null;
  const action = bot.suspended ? (
    bot.suspended.cause === 'plan_ended' ? (
      <Button small kind="quiet" label="See the plan" onPress={() => router.push('/plan')} testID="chat-to-plan" />
    ) : undefined
  ) : bot.status === 'error' ? (
    <Button small kind="quiet" label="Try again" onPress={again} busy={restart.isPending} testID="chat-restart" />
  ) : bot.status === 'stopped' ? (
    <Button small kind="quiet" label="Start again" onPress={start} busy={resume.isPending} testID="chat-start-again" />
  ) : undefined;
  return (
    <View className="w-full border-b border-line px-3 py-2">
      <View className="w-full max-w-3xl self-center">
        {offline ? (
          <Banner kind="warn" testID="chat-offline">
            No connection. What you write is kept, and sent when it is back.
          </Banner>
        ) : (
          <Banner kind={bot.status === 'error' ? 'bad' : 'warn'} testID="chat-away" action={action}>
            {word}
          </Banner>
        )}
      </View>
    </View>
  );
}

function Talk({ bot, conversation, view, drafts }: { bot: Bot; conversation: string; view: ChatView; drafts: Map<string, string> }) {
  const { chat, turns, active, loaded, more } = view;
  const [draft, setDraft] = useState(drafts.get(conversation) ?? '');
  const write = (text: string) => (drafts.set(conversation, text), setDraft(text));
  const asked = useRef(0);
  const say = (text: string) => {
    write('');
    chat?.say(conversation, text);
  };
  const actions = useMemo<TurnActions>(
    () => ({
      retry: (turn) => (turn.outgoing?.refused ? chat?.connection.again(turn.outgoing.id) : chat?.say(conversation, turn.question ?? '')),
      withdraw: (turn) => turn.outgoing && chat?.withdraw(turn.outgoing.id),
      decide: (id, decision) => chat?.decide(id, decision),
    }),
    [chat, conversation],
  );
  const earlier = () => {
    if (asked.current === turns.length) return;
    asked.current = turns.length;
    chat?.connection.earlier(conversation);
  };
  return (
    <>
      {turns.length ? (
        <TurnList turns={turns} more={more} onEarlier={earlier} actions={actions} botName={bot.bot_name} />
      ) : loaded ? (
        <EmptyChat bot={bot} onPick={say} />
      ) : (
        <View className="w-full max-w-3xl flex-1 justify-end self-center p-6" testID="chat-loading">
          <Skeleton lines={5} />
        </View>
      )}
      <Announcer turn={turns.at(-1)} />
      <Composer botName={bot.bot_name} draft={draft} onDraft={write} onSend={say} onStop={active ? () => chat?.stop(active) : null} closed={closedWord(bot)} />
    </>
  );
}

/** More of an answer than this is not read out by itself. */
const ANNOUNCED_CHARACTERS_MAX = 600;

/** Says a finished answer once to a screen reader; the streaming pieces would be noise. */
function Announcer({ turn }: { turn: Turn | undefined }) {
  const texts = turn?.state === 'finished' ? turn.blocks.flatMap((block) => (block.kind === 'text' ? [block.text] : [])) : [];
  return (
    <Text className="sr-only" role="status">
      {texts.join(' ').slice(0, ANNOUNCED_CHARACTERS_MAX)}
    </Text>
  );
}

function Drawer({ open, onClose, children }: { open: boolean; onClose: () => void; children: ReactNode }) {
  return (
    <Modal visible={open} transparent animationType="fade" onRequestClose={onClose} aria-label="Side panel">
      <View className="flex-1 flex-row">
        <View className="h-full w-80 max-w-[85%] border-r border-line bg-sunken" testID="drawer">
          {children}
        </View>
        <Pressable role="button" className="flex-1 bg-veil" onPress={onClose} aria-label="Close the side panel" testID="drawer-close" />
      </View>
    </Modal>
  );
}

/** True once `on` has been true for `ms`. */
function useLasting(on: boolean, ms: number): boolean {
  const [lasting, setLasting] = useState(false);
  useEffect(() => {
    setLasting(false);
    if (!on) return undefined;
    const timer = setTimeout(() => setLasting(true), ms);
    return () => clearTimeout(timer);
  }, [on, ms]);
  return lasting;
}
