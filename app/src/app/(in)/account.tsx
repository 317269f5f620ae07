import { Account } from '@/screens/account';

export default Account;
