import fc from 'fast-check';
import { directionOf, parseMarkdown, safeHref } from './markdown';

test('the parts of an answer', () => {
  const tree = parseMarkdown(
    '# Hi\n\nSome **bold** and `code`.\n\n- one\n- [x] two\n  1. deep\n\n> said\n\n```rust\nfn main() {}\n```\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n---',
  );
  expect(tree.map((part) => part.kind)).toEqual(['heading', 'paragraph', 'list', 'quote', 'code', 'table', 'rule']);
  expect(tree[4]).toEqual({ kind: 'code', language: 'rust', text: 'fn main() {}' });
  expect(tree[2]).toMatchObject({
    items: [{ checked: null }, { checked: true, children: [{ kind: 'paragraph' }, { kind: 'list', ordered: true }] }],
  });
  expect(tree[5]).toMatchObject({ align: [null, 'right'] });
});

test('HTML stays text, and only web and mail addresses become links', () => {
  expect(parseMarkdown('<script>alert(1)</script>')).toEqual([
    { kind: 'paragraph', children: [{ kind: 'text', text: '<script>alert(1)</script>' }] },
  ]);
  expect(JSON.stringify(parseMarkdown('[x](javascript:alert(1)) a <b>b</b> &amp; c'))).not.toContain('"link"');
  expect(parseMarkdown('[x](https://example.org)')[0]).toMatchObject({ children: [{ kind: 'link', href: 'https://example.org' }] });
  expect(['https://a.b', 'mailto:a@b', 'javascript:x', '/app', 'data:text/html,x', ' HTTPS://A '].map(safeHref)).toEqual([
    'https://a.b',
    'mailto:a@b',
    null,
    null,
    null,
    'HTTPS://A',
  ]);
});

test('lists and quotations run the way of their first letter', () => {
  const table: [string, 'ltr' | 'rtl'][] = [
    ['- one', 'ltr'],
    ['- 9:04 **قطار**', 'rtl'],
    ['> «רכבת» leaves', 'rtl'],
    ['> The רכבת leaves', 'ltr'],
    ['- 1', 'ltr'],
  ];
  for (const [text, direction] of table) expect([text, directionOf(parseMarkdown(text)[0]!)]).toEqual([text, direction]);
});

test('a notice of the gateway ends in a link that can be pressed', () => {
  const notice =
    "You can raise the limit here, and I answer again at once: http://127.0.0.1:8787/app/usage Otherwise I'm back on 1 December.";
  const address = 'http://127.0.0.1:8787/app/usage';
  expect(parseMarkdown(notice)[0]).toMatchObject({ children: [{}, { kind: 'link', href: address }, { kind: 'text' }] });
});

test('any text parses, half-written Markdown too', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom('*', '`', '#', '|', '-', '>', '[', ']', '(', ')', '\n', ' ', 'a', '<', '&'), maxLength: 200 }),
      (text) => Array.isArray(parseMarkdown(text)),
    ),
  );
  expect(() => parseMarkdown('> '.repeat(500) + 'x')).not.toThrow();
});
