import { BusError } from "../bus/bus.ts";
import type { Deps } from "../deps.ts";
import type { Told } from "./told.ts";

/** How long an answer waits for those who watch to be told. */
const PATIENCE_MS = 300;

/** Tells those who watch a chat, where the bus can; what they miss they find in the store. */
export async function announce({ bus, log }: Pick<Deps, "bus" | "log">, chatId: string, told: Told): Promise<void> {
  const said = bus.append(chatId, JSON.stringify(told)).then(
    () => {},
    (error: unknown) => {
      if (!(error instanceof BusError)) throw error;
      log({ severity: "WARNING", message: "not announced: the bus is down", chatId });
    },
  );
  await Promise.race([said, new Promise((resolve) => setTimeout(resolve, PATIENCE_MS).unref())]);
}
