import type { Pair } from "../repo/claims.ts";
import { inlineOf, isInline } from "../repo/images.ts";
import type { Store } from "../store/store.ts";

/** How many earlier images that were given inline go with a prompt: each may have megabytes. */
const MOST_INLINE = 4;

/**
 * Earlier pairs with the addresses of their images as the model takes them. What was given inline is read for them, the newest
 * few; an older one is not sent again, and what was said of it is.
 */
export async function withImages(store: Store, pairs: readonly Pair[]): Promise<readonly Pair[]> {
  const inline = pairs.filter(({ image }) => image !== null && isInline(image)).slice(0, MOST_INLINE);
  if (inline.length === 0) return pairs;
  const urls = await inlineOf(
    store,
    inline.map(({ id }) => id),
  );
  return pairs.map((pair) =>
    pair.image !== null && isInline(pair.image) ? { ...pair, image: urls.get(pair.id) ?? null } : pair,
  );
}

export const withoutImages = (pairs: readonly Pair[]): Pair[] => pairs.map((pair) => ({ ...pair, image: null }));
