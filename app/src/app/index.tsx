import { Text, View } from 'react-native';
export default function Index() { return <View className="flex-1 bg-paper p-4"><Text className="text-ink text-xl">Hello</Text></View>; }
