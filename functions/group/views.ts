import * as z from "zod";
import { time } from "../../lib/http/fields.ts";
import type { GroupView as Group, Member } from "../../lib/repo/groups.ts";

const role = z.enum(["owner", "member"]);

/** A group as one of its members sees it; `role` is theirs. */
export const GroupView = z.object({
  id: z.string(),
  name: z.string(),
  description: z.string(),
  role,
  created_at: time,
  updated_at: time,
});
export const groupView = ({ createdAt, updatedAt, ...group }: Group): z.input<typeof GroupView> => ({
  ...group,
  created_at: createdAt.toISOString(),
  updated_at: updatedAt.toISOString(),
});

/** A member of a group, as every member sees them. */
export const MembersView = z.object({
  users: z.array(z.object({ id: z.string(), username: z.string(), name: z.string().nullable(), role })),
});
export const membersView = (members: readonly Member[]): z.input<typeof MembersView> => ({ users: [...members] });
