// Keeps the chat's WebSocket: a ticket for each connection, history first, then resume, then what was not sent.
// Never: a view of its own of the conversation; everything that arrives goes through the reducer.

import { backoffMs } from '../../api/backoff';
import { parseFrame, type FromServer, type ToServer } from './frames';
import { unsent, type Action, type ChatState, type Outgoing } from './reducer';

/** A page of history; enough to fill a desk screen twice. */
export const HISTORY_PAGE = 60;
/** A message without an ack for this long: the connection is dead, whatever the browser thinks. */
const ACK_WITHIN_MS = 20_000;

export type Link = 'connecting' | 'online' | 'offline';

/** The part of WebSocket that is used. */
export interface Socket {
  send(data: string): void;
  close(): void;
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: (() => void) | null;
}

export interface ConnectionParts {
  ticket: () => Promise<string>;
  open: (ticket: string) => Socket;
  /** The state now, and how to change it. Several actions at once when pieces were gathered. */
  state: () => ChatState;
  dispatch: (actions: Action[]) => void;
  onLink: (link: Link) => void;
  /** Something other than a message was not taken. */
  onRefused: (code: string, message: string) => void;
  /** Runs `work` a little later, together with everything that arrived until then. */
  gather: (work: () => void) => void;
}

export class Connection {
  private socket: Socket | null = null;
  private ready = false;
  private closed = false;
  private attempt = 0;
  private resumed = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private ackTimer: ReturnType<typeof setTimeout> | undefined;
  private waiting: Action[] = [];
  private readonly asked = new Set<string>();

  constructor(
    private readonly parts: ConnectionParts,
    private conversation: string,
  ) {
    void this.connect();
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
    clearTimeout(this.ackTimer);
    this.drop();
  }

  /** The network is back, or the page is looked at again: do not sit out the wait, and do not trust an old socket. */
  wake(): void {
    if (this.closed) return;
    clearTimeout(this.timer);
    this.attempt = 0;
    this.drop();
    void this.connect();
  }

  show(conversation: string): void {
    this.conversation = conversation;
    this.askHistory(conversation);
  }

  earlier(conversation: string): void {
    const known = this.parts.state().conversations[conversation];
    if (!known?.more || known.from === null) return;
    this.tell({ type: 'history', conversation, limit: HISTORY_PAGE, before: known.from });
  }

  submit(message: Outgoing): void {
    this.parts.dispatch([{ type: 'submit', message }]);
    this.sendMessage(message);
  }

  /** Sends again what was refused, under the same id. */
  again(id: string): void {
    this.parts.dispatch([{ type: 'again', id }]);
    const message = this.parts.state().outbox.find((kept) => kept.id === id);
    if (message) this.sendMessage(message);
  }

  tell(frame: ToServer): boolean {
    if (!this.ready || !this.socket) return false;
    this.socket.send(JSON.stringify(frame));
    return true;
  }

  private async connect(): Promise<void> {
    this.parts.onLink('connecting');
    let ticket: string;
    try {
      ticket = await this.parts.ticket();
    } catch {
      return this.retry();
    }
    if (this.closed || this.socket) return;
    const socket = this.parts.open(ticket);
    this.socket = socket;
    const current = (work: () => void) => () => this.socket === socket && work();
    socket.onopen = current(() => this.opened());
    socket.onclose = current(() => this.lost());
    socket.onmessage = (event) => this.socket === socket && this.take(parseFrame(String(event.data)));
  }

  private opened(): void {
    this.ready = true;
    this.attempt = 0;
    this.asked.clear();
    this.parts.onLink('online');
    if (this.resumed) this.resume();
    this.askHistory(this.conversation);
  }

  private resume(): void {
    this.flush();
    this.resumed = true;
    this.tell({ type: 'resume', after: this.parts.state().lastSeq });
    for (const message of unsent(this.parts.state())) this.sendMessage(message);
  }

  private askHistory(conversation: string): void {
    const known = this.parts.state().conversations[conversation];
    if ((known && known.from !== null) || this.asked.has(conversation)) return;
    if (this.tell({ type: 'history', conversation, limit: HISTORY_PAGE })) this.asked.add(conversation);
  }

  private sendMessage(message: Outgoing): void {
    if (!this.resumed || !this.tell({ type: 'send', id: message.id, conversation: message.conversation, text: message.text })) return;
    clearTimeout(this.ackTimer);
    this.ackTimer = setTimeout(() => unsent(this.parts.state()).length && this.wake(), ACK_WITHIN_MS);
  }

  private take(got: FromServer): void {
    if (got.kind === 'frame') return this.later({ type: 'frame', frame: got.frame });
    if (got.kind === 'other') return;
    this.flush();
    if (got.kind === 'ack') this.parts.dispatch([{ type: 'ack', id: got.id, run_id: got.run_id }]);
    else if (got.kind === 'refused' && got.id) this.parts.dispatch([{ type: 'refused', id: got.id, message: got.message }]);
    else if (got.kind === 'refused') this.parts.onRefused(got.code, got.message);
    else if (got.kind === 'history') {
      const { conversation, items, more } = got;
      this.parts.dispatch([{ type: 'history', conversation, items, more, first: !this.resumed }]);
      if (!this.resumed) this.resume();
    }
  }

  private later(action: Action): void {
    this.waiting.push(action);
    if (this.waiting.length === 1) this.parts.gather(() => this.flush());
  }

  private flush(): void {
    if (!this.waiting.length) return;
    const actions = this.waiting;
    this.waiting = [];
    this.parts.dispatch(actions);
  }

  private lost(): void {
    this.drop();
    this.retry();
  }

  private drop(): void {
    const { socket } = this;
    this.socket = null;
    this.ready = false;
    this.flush();
    socket?.close();
    this.parts.dispatch([{ type: 'cut' }]);
  }

  private retry(): void {
    if (this.closed) return;
    this.parts.onLink('offline');
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.connect(), backoffMs(this.attempt, Math.random()));
    this.attempt += 1;
  }
}
