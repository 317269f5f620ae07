// The tests cover the logic only (src/features, src/api): plain TypeScript that imports nothing of React Native.
module.exports = {
  testEnvironment: 'node',
  testMatch: ['<rootDir>/src/**/*.test.ts'],
  transform: { '\\.[jt]sx?$': ['babel-jest', { presets: ['babel-preset-expo'], caller: { name: 'metro', platform: 'web' } }] },
  transformIgnorePatterns: ['node_modules/(?!(marked|eventsource-parser)/)'],
  moduleNameMapper: { '^@/(.*)$': '<rootDir>/src/$1' },
};
