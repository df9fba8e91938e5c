import { ConfigError } from "../lib/config.ts";
import { storeError } from "../lib/store/store.ts";

/** A store that cannot be used at the start is a setting's fault, and is told as one. */
export async function explained<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    const failure = storeError(error);
    if (!failure) throw error;
    throw new ConfigError([`DB_ADDRESS names a store that cannot be used (${failure.code ?? "no answer"}).`]);
  }
}
