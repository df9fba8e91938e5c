/** Placeholder. */
export async function admin(_words: string[]): Promise<void> {}
