import type { Bus } from "../bus/bus.ts";
import { type Store, storeError } from "../store/store.ts";

/** The bus, with its failures told by the name of what failed. */
export const tellBusFailures = (bus: Bus, tell: (operation: string) => void): Bus =>
  watched(bus, ["append", "since", "subscribe", "stop", "take", "clear", "ping"], tell);

/** The store, likewise; a statement that it refuses for its data is no failure of the store. */
export const tellStoreFailures = (store: Store, tell: (operation: string) => void): Store =>
  watched(store, ["atomic", "run", "ping"], (operation, error) => {
    if (!storeError(error)?.permanent) tell(operation);
  });

/** The same object, with the rejections of some methods told. Adapters may be classes with private fields, so `this` stays theirs. */
function watched<T extends object>(
  it: T,
  methods: readonly (keyof T & string)[],
  tell: (method: string, error: unknown) => void,
): T {
  const names: ReadonlySet<string | symbol> = new Set(methods);
  return new Proxy(it, {
    get: (target, name) => {
      const value = Reflect.get(target, name);
      if (typeof value !== "function") return value;
      if (!names.has(name)) return value.bind(target);
      return async (...args: unknown[]) => {
        try {
          return await value.apply(target, args);
        } catch (error) {
          tell(String(name), error);
          throw error;
        }
      };
    },
  });
}
