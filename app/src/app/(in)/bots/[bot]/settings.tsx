import { SettingsPage } from '@/screens/settings';

export default SettingsPage;
