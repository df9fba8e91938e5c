CREATE TABLE `images` (
	`message_id` text PRIMARY KEY NOT NULL,
	`url` text NOT NULL,
	FOREIGN KEY (`message_id`) REFERENCES `messages`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE TABLE `templates` (
	`id` text PRIMARY KEY NOT NULL,
	`owner_id` text NOT NULL,
	`group_id` text,
	`name` text NOT NULL,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL,
	`text` text NOT NULL,
	FOREIGN KEY (`owner_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`group_id`) REFERENCES `groups`(`id`) ON UPDATE no action ON DELETE set null
);
--> statement-breakpoint
CREATE INDEX `templates_owner` ON `templates` (`owner_id`);--> statement-breakpoint
CREATE INDEX `templates_group` ON `templates` (`group_id`) WHERE "templates"."group_id" is not null;--> statement-breakpoint
ALTER TABLE `chats` ADD `key` text;--> statement-breakpoint
ALTER TABLE `chats` ADD `cleared_seq` integer;--> statement-breakpoint
ALTER TABLE `messages` ADD `flagged` text;--> statement-breakpoint
ALTER TABLE `messages` ADD `image` text;--> statement-breakpoint
CREATE INDEX `messages_created` ON `messages` (`created_at`);