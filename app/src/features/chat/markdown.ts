// Markdown of an answer as a small tree that any renderer can draw.
// Never: HTML. Tags in an answer are shown as the text that they are, and a link goes only to the web or to mail.

import { lexer, type Token, type Tokens } from 'marked';

export type Inline =
  | { kind: 'text'; text: string }
  | { kind: 'strong' | 'em' | 'del'; children: Inline[] }
  | { kind: 'code'; text: string }
  | { kind: 'link'; href: string; children: Inline[] }
  | { kind: 'break' };

export type Prose =
  | { kind: 'paragraph'; children: Inline[] }
  | { kind: 'heading'; depth: number; children: Inline[] }
  | { kind: 'code'; language: string; text: string }
  | { kind: 'list'; ordered: boolean; start: number; items: { checked: boolean | null; children: Prose[] }[] }
  | { kind: 'quote'; children: Prose[] }
  | { kind: 'table'; header: Inline[][]; rows: Inline[][][]; align: ('left' | 'right' | 'center' | null)[] }
  | { kind: 'rule' };

/** Nesting beyond this is drawn flat: an answer must not be able to exhaust the stack. */
const DEPTH_MAX = 12;

export function parseMarkdown(text: string): Prose[] {
  return blocks(lexer(text, { gfm: true, breaks: true }), 0);
}

/** The address if it may be opened from an answer, else null. */
export function safeHref(href: string): string | null {
  return /^(https?:\/\/|mailto:)/i.test(href.trim()) ? href.trim() : null;
}

/** Which way a list or a quotation runs, by its first letter. A paragraph finds out by itself. */
export function directionOf(block: Prose): 'ltr' | 'rtl' {
  const letter = /\p{L}/u.exec(plainText(block))?.[0] ?? '';
  return /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}\p{Script=Adlam}]/u.test(letter)
    ? 'rtl'
    : 'ltr';
}

function plainText(part: Prose | Inline): string {
  if ('text' in part) return part.text;
  if ('children' in part) return part.children.map(plainText).join('');
  if (part.kind === 'list') return part.items.flatMap((item) => item.children.map(plainText)).join(' ');
  return '';
}

function blocks(tokens: Token[], depth: number): Prose[] {
  return tokens.flatMap((token) => block(token, depth));
}

function block(token: Token, depth: number): Prose[] {
  if (depth > DEPTH_MAX) return [{ kind: 'paragraph', children: [{ kind: 'text', text: token.raw }] }];
  switch (token.type) {
    case 'space':
    case 'def':
    case 'checkbox':
      return [];
    case 'heading':
      return [{ kind: 'heading', depth: token.depth as number, children: inlines(token.tokens, depth) }];
    case 'code':
      return [{ kind: 'code', language: (token.lang as string | undefined)?.split(/\s/)[0] ?? '', text: token.text as string }];
    case 'list':
      return [list(token as Tokens.List, depth)];
    case 'blockquote':
      return [{ kind: 'quote', children: blocks(token.tokens ?? [], depth + 1) }];
    case 'table':
      return [table(token as Tokens.Table, depth)];
    case 'hr':
      return [{ kind: 'rule' }];
    case 'paragraph':
    case 'text':
      return [{ kind: 'paragraph', children: token.tokens ? inlines(token.tokens, depth) : [{ kind: 'text', text: plain(token) }] }];
    default:
      return token.raw.trim() ? [{ kind: 'paragraph', children: [{ kind: 'text', text: token.raw.trimEnd() }] }] : [];
  }
}

function list(token: Tokens.List, depth: number): Prose {
  const items = token.items.map((item) => ({
    checked: item.task ? item.checked === true : null,
    children: blocks(item.tokens, depth + 1),
  }));
  return { kind: 'list', ordered: token.ordered, start: Number(token.start) || 1, items };
}

function table(token: Tokens.Table, depth: number): Prose {
  const cell = (one: Tokens.TableCell) => inlines(one.tokens, depth);
  return { kind: 'table', header: token.header.map(cell), rows: token.rows.map((row) => row.map(cell)), align: token.align };
}

function inlines(tokens: Token[] | undefined, depth: number): Inline[] {
  return (tokens ?? []).flatMap((token) => inline(token, depth + 1));
}

function inline(token: Token, depth: number): Inline[] {
  if (depth > DEPTH_MAX * 2) return [{ kind: 'text', text: token.raw }];
  switch (token.type) {
    case 'strong':
    case 'em':
    case 'del':
      return [{ kind: token.type, children: inlines(token.tokens, depth) }];
    case 'codespan':
      return [{ kind: 'code', text: token.text as string }];
    case 'br':
      return [{ kind: 'break' }];
    case 'link':
      return link(token as Tokens.Link, depth);
    case 'image':
      return [{ kind: 'text', text: (token.text as string) || (token.href as string) }];
    case 'checkbox':
      return [];
    case 'text':
      return token.tokens ? inlines(token.tokens, depth) : [{ kind: 'text', text: plain(token) }];
    case 'escape':
      return [{ kind: 'text', text: token.text as string }];
    default:
      return [{ kind: 'text', text: token.raw }];
  }
}

function link(token: Tokens.Link, depth: number): Inline[] {
  const href = safeHref(token.href);
  const children = inlines(token.tokens, depth);
  return href ? [{ kind: 'link', href, children }] : children;
}

function plain(token: Token): string {
  return (token as { text?: string }).text ?? token.raw;
}
