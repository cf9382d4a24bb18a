// Bundles the program that PROGRAM names, with this folder's version of matrix-js-sdk.
export default { resolve: { alias: { program: process.env.PROGRAM }, dedupe: ["matrix-js-sdk"] } };
