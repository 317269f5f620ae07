import { LogIn } from '@/screens/log-in';

export default LogIn;
