import { randomBytes } from "node:crypto";
import { eq } from "drizzle-orm";
import { uuidv7 } from "uuidv7";
import { expect, test } from "vitest";
import * as chats from "../../lib/repo/chats.ts";
import * as claims from "../../lib/repo/claims.ts";
import * as groups from "../../lib/repo/groups.ts";
import { inlineOf } from "../../lib/repo/images.ts";
import * as messages from "../../lib/repo/messages.ts";
import type { Store } from "../../lib/store/store.ts";
import { chatOf, claimed, groupOf, newClaim, people, said } from "./chatting.ts";
import { at } from "./people.ts";

const MIB = 1024 * 1024;
const inline = (bytes: Buffer) => `data:image/png;base64,${bytes.toString("base64")}`;

/** Images that belong to prompts. */
export function imagesSuite(current: () => Store): void {
  const rowsOf = async (messageId: string) => {
    const { db, images } = current();
    return (await db.select().from(images).where(eq(images.messageId, messageId))).map(({ url }) => url);
  };

  test("one of 4 MiB that is given inline is kept whole, apart from its message, and once however often it is claimed", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    const image = inline(randomBytes(4 * MIB));
    const claim = newClaim(chat, anna, { image });
    const first = await claimed(store, claim);
    expect(first.message.image).toBe("data:image/png");
    const [kept = "", ...more] = await rowsOf(claim.id);
    // Compared so, because a difference of megabytes is not worth showing.
    expect([kept === image, kept.length, more.length]).toEqual([true, image.length, 0]);
    expect((await inlineOf(store, [claim.id])).get(claim.id) === image).toBe(true);

    expect(await claimed(store, claim)).toEqual(first);
    const other = { ...claim, requestId: uuidv7(), image: "data:image/gif;base64,R0lG" };
    expect((await claimed(store, other)).message).toEqual(first.message);
    expect((await rowsOf(claim.id)).map((url) => url === image)).toEqual([true]);
  });

  test("one that has an address is kept as it is, with its message", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    const image = `https://images.example/naïve 🎉?${"q".repeat(2_000)};,data:`;
    const { id, image: kept } = await said(store, chat, anna, { image });
    expect([kept, await rowsOf(id)]).toEqual([image, []]);
  });

  test("those of several messages are found by them, and no other", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const chat = await chatOf(store, anna);
    const given = [inline(Buffer.from("one")), inline(Buffer.from("two")), "data:image/webp,%00", null];
    const ids: string[] = [];
    for (const image of given) ids.push((await said(store, chat, anna, { image })).id);
    const pairs = (await claimed(store, newClaim(chat, anna))).pairs.map(({ id, image }) => [id, image]);
    const types = ["data:image/png", "data:image/png", "data:image/webp", null];
    expect(pairs.reverse()).toEqual(ids.map((id, i) => [id, types[i]]));
    expect(await inlineOf(store, [...ids.slice(1), uuidv7()])).toEqual(
      new Map([
        [ids[1], given[1]],
        [ids[2], given[2]],
      ]),
    );
    expect(await inlineOf(store, [])).toEqual(new Map());
  });

  test("one whose prompt is not stored is not stored either", async () => {
    const store = current();
    const { anna, ben } = await people(store, "anna", "ben");
    const chat = await chatOf(store, anna);
    const image = inline(Buffer.from("secret"));
    const refused = newClaim(chat, ben, { image });
    expect(await claims.claim(store, refused)).toBeNull();
    expect(await rowsOf(refused.id)).toEqual([]);
    // Nor is it put to a message that somebody else has under this id, or that has none.
    const plain = await said(store, chat, anna);
    await chats.addUsers(store, chat.id, [ben.id], at());
    await claimed(store, newClaim(chat, ben, { id: plain.id, image }));
    expect([await rowsOf(plain.id), (await messages.find(store, plain))?.image]).toEqual([[], null]);
  });

  test("one goes with its message: deleted alone, with its chat, or with its group", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const group = await groupOf(store, anna);
    const [one, two, three] = [
      await chatOf(store, anna),
      await chatOf(store, anna),
      await chatOf(store, anna, { groupId: group.id }),
    ];
    const image = inline(Buffer.from("here"));
    const made: messages.MessageView[] = [];
    for (const chat of [one, one, two, three]) made.push(await said(store, chat, anna, { image }));
    const [deleted, kept, ofChat, ofGroup] = made as [messages.MessageView, ...messages.MessageView[]];
    expect(await messages.remove(store, deleted, anna.id)).toBe(true);
    expect(await chats.remove(store, two.id, anna.id)).not.toBeNull();
    expect(await groups.remove(store, group.id, anna.id)).toBe(true);
    for (const gone of [deleted, ofChat, ofGroup]) expect(await rowsOf(gone?.id ?? "")).toEqual([]);
    expect(await rowsOf(kept?.id ?? "")).toEqual([image]);
  });
}
