import type { Deps } from "../deps.ts";
import type { Viewer } from "../http/viewer.ts";
import { describeError } from "../log.ts";
import type { ChatView } from "../repo/chats.ts";
import { Channel } from "./channel.ts";

/** How often what is running is looked after. */
const LOOK_MS = 2_000;
/** How long a chat is followed after the last who watched it: most come back, as a cut or a turned page makes them. */
const LINGER_MS = 5_000;

/** The chats that are followed on this instance. */
export type Live = {
  /** Lets a viewer watch a chat, from behind the frame they have seen. Answers what ends it. */
  attach(chat: Pick<ChatView, "id" | "lastSeq" | "clearedSeq" | "createdAt">, viewer: Viewer): Promise<() => void>;
  /** Resolves when a message is not being replied to any more; a reply whose producer died is settled on the way. */
  ended(chatId: string, messageId: string): Promise<void>;
  /** Settles replies of a chat whose producers are gone. */
  settle(chatId: string): Promise<void>;
  /** What the store says is the newest number of a chat, and up to which it was cleared. */
  notice(chatId: string, lastSeq: number, clearedSeq: number): void;
  close(): void;
};

/** `onMembers` hears that somebody joined or left one of the chats. */
export function createLive(deps: Pick<Deps, "bus" | "store" | "log" | "now"> & { onMembers(): void }): Live {
  const channels = new Map<string, { channel: Channel; users: number; timer: NodeJS.Timeout | undefined }>();
  let looking: NodeJS.Timeout | undefined;

  const look = () => {
    for (const { channel } of channels.values()) void channel.look();
  };
  const use = (chatId: string): { channel: Channel; release(): void } => {
    const known = channels.get(chatId) ?? { channel: new Channel(deps, chatId), users: 0, timer: undefined };
    channels.set(chatId, known);
    looking ??= setInterval(look, LOOK_MS).unref();
    clearTimeout(known.timer);
    known.users++;
    const close = () => {
      known.channel.close();
      channels.delete(chatId);
      if (channels.size > 0) return;
      clearInterval(looking);
      looking = undefined;
    };
    const release = () => {
      if (--known.users === 0) known.timer = setTimeout(close, LINGER_MS).unref();
    };
    return { channel: known.channel, release };
  };

  return {
    attach: async (chat, viewer) => {
      const { channel, release } = use(chat.id);
      const detach = () => {
        channel.detach(viewer);
        release();
      };
      let wanted: string | null = null;
      let resuming = false;
      const resume = async () => {
        if (resuming) return;
        resuming = true;
        // One at a time, and the last wish counts: a client that asks again and again is not worth a query each.
        for (let id = wanted; id !== null && !viewer.closed; id = wanted) {
          wanted = null;
          channel.detach(viewer);
          await channel.resume(viewer, id).catch((error: unknown) => {
            deps.log({ severity: "ERROR", message: "stream not resumed", ...describeError(error) });
            viewer.end("internal");
          });
        }
        resuming = false;
      };
      viewer.onResume = (id) => {
        wanted = id;
        void resume();
      };
      await channel.attach(viewer, viewer.lastEventId, chat).catch((error) => {
        detach();
        throw error;
      });
      return detach;
    },
    ended: async (chatId, messageId) => {
      const { channel, release } = use(chatId);
      await channel.ended(messageId).finally(release);
    },
    settle: async (chatId) => {
      const { channel, release } = use(chatId);
      await channel.settle().finally(release);
    },
    notice: (chatId, lastSeq, clearedSeq) => channels.get(chatId)?.channel.notice(lastSeq, clearedSeq),
    close: () => {
      clearInterval(looking);
      for (const { channel, timer } of channels.values()) {
        clearTimeout(timer);
        channel.close();
      }
      channels.clear();
    },
  };
}
