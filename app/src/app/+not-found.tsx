import { NotFound } from '@/screens/not-found';

export default NotFound;
