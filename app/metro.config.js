// Bundler settings: Expo's, with Uniwind's styles on top.
// Uniwind points react-native-web's InputAccessoryView at a file that it does not ship, so that one name goes around it.
const { getDefaultConfig } = require('expo/metro-config');
const { withUniwindConfig } = require('uniwind/metro');

const config = withUniwindConfig(getDefaultConfig(__dirname), { cssEntryFile: './src/theme.css', dtsFile: './src/uniwind.d.ts' });
const resolveWithUniwind = config.resolver.resolveRequest;

config.resolver.resolveRequest = (context, name, platform) => {
  if (platform === 'web' && name.endsWith('InputAccessoryView')) return context.resolveRequest(context, name, platform);
  return resolveWithUniwind(context, name, platform);
};

module.exports = config;
