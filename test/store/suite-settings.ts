import { expect, test } from "vitest";
import * as chats from "../../lib/repo/chats.ts";
import * as settings from "../../lib/repo/settings.ts";
import type { Store } from "../../lib/store/store.ts";
import { chatOf, claimed, newClaim, people } from "./chatting.ts";
import { at } from "./people.ts";

/** Settings that administrators make. */
export function settingsSuite(current: () => Store): void {
  test("the global system prompt is set, replaced and taken away, each as often as one likes", async () => {
    const store = current();
    expect(await settings.systemPrompt(store)).toBeNull();
    await settings.setSystemPrompt(store, null);
    expect(await settings.systemPrompt(store)).toBeNull();
    const long = `  naïve 🎉 "it's" \\ \n日本 `.repeat(4_000);
    for (const prompt of ["Be brief.", "Be brief.", long, ""]) {
      await settings.setSystemPrompt(store, prompt);
      expect(await settings.systemPrompt(store)).toBe(prompt);
    }
    for (let i = 0; i < 2; i++) {
      await settings.setSystemPrompt(store, null);
      expect(await settings.systemPrompt(store)).toBeNull();
    }
  });

  test("one that many set at the same time is one of theirs", async () => {
    const store = current();
    const prompts = Array.from({ length: 20 }, (_, i) => `Be ${i}.`);
    await Promise.all(prompts.map((prompt) => settings.setSystemPrompt(store, prompt)));
    expect(prompts).toContain(await settings.systemPrompt(store));
    await settings.setSystemPrompt(store, null);
    expect(await settings.systemPrompt(store)).toBeNull();
  });

  test("a prompt is claimed with its chat's own system prompt, else with the global one, else with none", async () => {
    const store = current();
    const { anna } = await people(store, "anna");
    const [chat, other] = [await chatOf(store, anna), await chatOf(store, anna)];
    const own = (systemPrompt: string | null) => chats.update(store, chat.id, anna.id, { systemPrompt }, at(1));
    const told = async () => [
      (await claimed(store, newClaim(chat, anna))).systemPrompt,
      (await claimed(store, newClaim(other, anna))).systemPrompt,
    ];
    expect(await told()).toEqual([null, null]);
    expect(await own("Be a pirate.")).toMatchObject({ systemPrompt: "Be a pirate." });
    expect(await told()).toEqual(["Be a pirate.", null]);
    await settings.setSystemPrompt(store, "Be brief 🎉.");
    expect(await told()).toEqual(["Be a pirate.", "Be brief 🎉."]);
    await own(null);
    expect(await told()).toEqual(["Be brief 🎉.", "Be brief 🎉."]);
    await settings.setSystemPrompt(store, null);
    expect(await told()).toEqual([null, null]);
    // A chat's view has its own alone.
    await settings.setSystemPrompt(store, "Be brief.");
    expect((await claimed(store, newClaim(chat, anna))).chat.systemPrompt).toBeNull();
    await settings.setSystemPrompt(store, null);
  });
}
