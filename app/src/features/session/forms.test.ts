import { Problem } from '../../api/problem';
import { faultOf, missingIn, nextPath } from './forms';

const problem = (code: string, field?: string) => new Problem({ code, title: 'No.', status: 422, field });

test('a problem is shown beside its field', () => {
  expect(faultOf(problem('email_taken')).field).toBe('email');
  expect(faultOf(problem('weak_password')).field).toBe('password');
  expect(faultOf(problem('invalid', 'name')).field).toBe('name');
  expect(faultOf(problem('bad_credentials'))).toEqual({ field: null, text: 'No.' });
  expect(faultOf(new TypeError('x')).text).not.toContain('x ');
});

test('what is missing, and where to go next', () => {
  expect(missingIn({ email: 'a', password: 'x' })?.field).toBe('email');
  expect(missingIn({ email: 'a@b', password: '' })?.field).toBe('password');
  expect(missingIn({ email: 'a@b', password: 'x', name: ' ' })?.field).toBe('name');
  expect(missingIn({ email: 'a@b', password: 'short', name: 'A' })?.field).toBe('password');
  expect(missingIn({ email: 'a@b', password: 'a few words', name: 'A' })).toBeNull();
  expect(missingIn({ email: 'a@b', password: 'x' })).toBeNull();
  expect(['/checkout/abc', '//evil.example', 'https://evil.example', '/\\evil', undefined].map(nextPath)).toEqual([
    '/checkout/abc',
    null,
    null,
    null,
    null,
  ]);
});
