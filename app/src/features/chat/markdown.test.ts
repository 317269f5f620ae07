import fc from 'fast-check';
import { parseMarkdown, safeHref } from './markdown';

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

test('any text parses, half-written Markdown too', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom('*', '`', '#', '|', '-', '>', '[', ']', '(', ')', '\n', ' ', 'a', '<', '&'), maxLength: 200 }),
      (text) => Array.isArray(parseMarkdown(text)),
    ),
  );
  expect(() => parseMarkdown('> '.repeat(500) + 'x')).not.toThrow();
});
