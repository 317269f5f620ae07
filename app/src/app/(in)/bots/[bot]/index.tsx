import { BotPage } from '@/screens/bot';

export default BotPage;
