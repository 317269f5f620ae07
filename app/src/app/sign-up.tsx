import { SignUp } from '@/screens/sign-up';

export default SignUp;
