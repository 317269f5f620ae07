// Style sheets are taken by the bundler; TypeScript only has to know that they exist.
declare module '*.css';
