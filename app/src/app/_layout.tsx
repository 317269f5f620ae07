import '@/theme.css';

import { QueryClientProvider } from '@tanstack/react-query';
import { Slot } from 'expo-router';
import { StatusBar } from 'expo-status-bar';
import { useEffect } from 'react';
import { View } from 'react-native';
import { session } from '@/api/client';
import { queryClient } from '@/features/queries';
import { useSession } from '@/features/session/use-session';
import { Unreachable } from '@/screens/unreachable';
import { Spinner } from '@/ui/spinner';
import { Toasts } from '@/ui/toast';

export default function Root() {
  const { status } = useSession();
  useEffect(() => void session.restore(), []);
  return (
    <QueryClientProvider client={queryClient}>
      <StatusBar style="auto" />
      <View className="flex-1 bg-paper">
        {status === 'unknown' ? (
          <View className="flex-1 items-center justify-center" testID="boot">
            <Spinner large />
          </View>
        ) : status === 'offline' ? (
          <Unreachable onRetry={() => session.restore()} />
        ) : (
          <Slot />
        )}
        <Toasts />
      </View>
    </QueryClientProvider>
  );
}
