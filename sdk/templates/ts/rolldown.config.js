// One module out for each module in: a stack trace names the stage's own files. The contract's imports stay as they are.
export default {
  input: ['component.ts', 'stage.test.ts'],
  external: /^(postrider|node):/,
  output: { dir: 'build', preserveModules: true },
};
