// An answer's Markdown, drawn with our own parts.
// Never: HTML, or a link to elsewhere that opens in this tab.

import { memo, useMemo, useState } from 'react';
import { ScrollView, View } from 'react-native';
import { directionOf, parseMarkdown, type Inline, type Prose } from '@/features/chat/markdown';
import { follow } from '@/features/leave';
import { Button } from '@/ui/button';
import { Text, type TextProps } from '@/ui/text';
import { toast } from '@/ui/toast';

/** The copy button says so for this long. */
const COPIED_MS = 1_600;

export const Markdown = memo(function Markdown({ text }: { text: string }) {
  const tree = useMemo(() => parseMarkdown(text), [text]);
  return <Blocks blocks={tree} />;
});

function Blocks({ blocks, tight }: { blocks: Prose[]; tight?: boolean }) {
  return (
    <View className={tight ? 'gap-1' : 'gap-3'}>
      {blocks.map((block, index) => (
        <Block key={index} block={block} />
      ))}
    </View>
  );
}

function Block({ block }: { block: Prose }) {
  switch (block.kind) {
    case 'paragraph':
      return <Line parts={block.children} />;
    case 'heading': {
      const size = block.depth === 1 ? 'xl' : block.depth === 2 ? 'lg' : 'base';
      return (
        <Line parts={block.children} size={size} weight="heavy" role="heading" aria-level={Math.min(6, block.depth + 1)} className="mt-1" />
      );
    }
    case 'code':
      return <Code text={block.text} language={block.language} />;
    case 'list':
      return <List block={block} />;
    case 'quote':
      return (
        <View className="border-s-4 border-line ps-4" {...{ dir: directionOf(block) }}>
          <Blocks blocks={block.children} />
        </View>
      );
    case 'table':
      return <Table block={block} />;
    case 'rule':
      return <View className="my-1 h-px bg-line" />;
  }
}

function Line({ parts, ...rest }: { parts: Inline[] } & TextProps) {
  return (
    <Text selectable {...rest}>
      <Inlines parts={parts} />
    </Text>
  );
}

function Inlines({ parts }: { parts: Inline[] }) {
  return parts.map((part, index) => <InlinePart key={index} part={part} />);
}

const INLINE = { strong: 'font-bold', em: 'italic', del: 'line-through' } as const;

function InlinePart({ part }: { part: Inline }) {
  switch (part.kind) {
    case 'text':
      return part.text;
    case 'break':
      return '\n';
    case 'code':
      return (
        <Text mono size="sm" className="rounded bg-sunken px-1">
          {part.text}
        </Text>
      );
    case 'link':
      return (
        <Text
          role="link"
          tone="accent"
          className="underline"
          {...{ href: part.href, hrefAttrs: { target: '_blank', rel: 'noopener noreferrer' } }}
          onPress={(press) => follow(part.href, press)}
        >
          <Inlines parts={part.children} />
        </Text>
      );
    default:
      return (
        <Text className={INLINE[part.kind]} weight={part.kind === 'strong' ? 'heavy' : 'normal'}>
          <Inlines parts={part.children} />
        </Text>
      );
  }
}

function List({ block }: { block: Extract<Prose, { kind: 'list' }> }) {
  const dir = directionOf(block);
  return (
    <View role="list" className="gap-1.5" {...{ dir }}>
      {block.items.map((item, index) => (
        <View key={index} role="listitem" className="flex-row gap-2">
          <Text tone="muted" className="min-w-5 text-end tabular-nums" {...{ dir }}>
            {item.checked === null ? (block.ordered ? `${block.start + index}.` : '•') : item.checked ? '☑' : '☐'}
          </Text>
          <View className="shrink grow">
            <Blocks blocks={item.children} tight />
          </View>
        </View>
      ))}
    </View>
  );
}

function Table({ block }: { block: Extract<Prose, { kind: 'table' }> }) {
  const widths = columnWidths(block);
  const align = (column: number) =>
    block.align[column] === 'right' ? 'text-right' : block.align[column] === 'center' ? 'text-center' : '';
  const row = (cells: Inline[][], head: boolean) =>
    cells.map((cell, column) => (
      <View key={column} role={head ? 'columnheader' : 'cell'} className="px-3 py-2" style={{ width: widths[column] }}>
        <Line parts={cell} size="sm" weight={head ? 'bold' : 'normal'} className={align(column)} />
      </View>
    ));
  return (
    <ScrollView horizontal tabIndex={0} aria-label="Table" className="max-w-full grow-0 self-start rounded-xl border border-line">
      <View role="table">
        <View role="row" className="flex-row bg-sunken">
          {row(block.header, true)}
        </View>
        {block.rows.map((cells, index) => (
          <View key={index} role="row" className="flex-row border-t border-line">
            {row(cells, false)}
          </View>
        ))}
      </View>
    </ScrollView>
  );
}

/** A letter's rough width in pixels, and how narrow and wide a column may be. */
const LETTER_PX = 8;
const COLUMN_PX = { min: 56, max: 260, padding: 28 };

function columnWidths({ header, rows }: Extract<Prose, { kind: 'table' }>): number[] {
  return header.map((cell, column) => {
    const longest = Math.max(lettersOf(cell), ...rows.map((cells) => lettersOf(cells[column] ?? [])));
    return Math.min(COLUMN_PX.max, Math.max(COLUMN_PX.min, longest * LETTER_PX + COLUMN_PX.padding));
  });
}

function lettersOf(parts: Inline[]): number {
  return parts.reduce((sum, part) => sum + ('children' in part ? lettersOf(part.children) : 'text' in part ? part.text.length : 0), 0);
}

function Code({ text, language }: { text: string; language: string }) {
  return (
    <View className="overflow-hidden rounded-xl border border-line bg-sunken">
      <View className="flex-row items-center justify-between border-b border-line py-1 pl-4 pr-1">
        <Text size="xs" tone="muted">
          {language || 'text'}
        </Text>
        <CopyButton text={text} />
      </View>
      <ScrollView horizontal tabIndex={0} aria-label="Code" contentContainerClassName="px-4 py-3">
        <Text mono size="sm" selectable className="whitespace-pre">
          {text}
        </Text>
      </ScrollView>
    </View>
  );
}

export function CopyButton({ text, label = 'Copy', testID = 'copy-code' }: { text: string; label?: string; testID?: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setCopied(true);
      setTimeout(() => setCopied(false), COPIED_MS);
    } catch {
      toast('The browser did not allow copying.', 'bad');
    }
  };
  return (
    <Button
      small
      kind="plain"
      icon={copied ? 'check' : 'copy'}
      label={copied ? 'Copied' : label}
      onPress={() => void copy()}
      testID={testID}
    />
  );
}
