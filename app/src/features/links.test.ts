import { appPath } from './links';

test('only links to this installation stay in the app', () => {
  const table: [href: string, here: string, path: string | null][] = [
    ['http://127.0.0.1:8787/app/usage', 'http://127.0.0.1:8787/app/bots/a?c=b', '/usage'],
    ['http://localhost:8787/app/bots/a?c=b', 'http://127.0.0.1:8787/app/', '/bots/a?c=b'],
    ['https://molt.example/app', 'https://molt.example/app/account', '/'],
    ['https://molt.example/apples', 'https://molt.example/app/', null],
    ['https://molt.example/checkout/x', 'https://molt.example/app/', null],
    ['https://molt.example.evil/app/usage', 'https://molt.example/app/', null],
    ['https://molt.example@evil.example/app/usage', 'https://molt.example/app/', null],
    ['https://me:word@molt.example/app/usage', 'https://molt.example/app/', null],
    ['http://molt.example/app/usage', 'https://molt.example/app/', null],
    ['https://molt.example:444/app/usage', 'https://molt.example/app/', null],
    ['http://localhost:8787/app/usage', 'https://molt.example/app/', null],
    ['not an address', 'https://molt.example/app/', null],
  ];
  for (const [href, here, path] of table) expect([href, appPath(href, here)]).toEqual([href, path]);
});
