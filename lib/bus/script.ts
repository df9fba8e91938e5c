import { createHash } from "node:crypto";

export type Script = { lua: string; sha: string };

/**
 * KEYS: log, and with an author reply, stop. ARGV: channel, text (empty: renew alone), log's ms, log's length, and with an
 * author producer, n, opens (0 or 1), lease's ms. Answers status, id, who wants it stopped. Nothing is written before every
 * key has been read, so that one of a wrong type leaves nothing half done.
 */
export const APPEND = script(`
local log, reply, stop = KEYS[1], KEYS[2], KEYS[3]
local channel, text, logMs, logLength = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local producer, n, opens, leaseMs = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local stoppedBy = false
if producer then
  stoppedBy = redis.call('GET', stop)
  local held = redis.call('GET', reply) or ''
  local last, id, owner = string.match(held, '^(%d+) (%S+) (.+)$')
  if held == 'settled' or (owner and owner ~= producer) then return {'taken', false, stoppedBy} end
  if owner then
    if text == '' or tonumber(n) <= tonumber(last) then
      redis.call('PEXPIRE', reply, leaseMs)
      return {'seen', n == last and id, stoppedBy}
    end
  elseif text == '' or (opens == '0' and tonumber(n) > 1) then
    return {'forgotten', false, stoppedBy}
  end
end
local before = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
local id = redis.call('XADD', log, 'MAXLEN', '~', logLength, '*', 't', text)
redis.call('PUBLISH', channel, id .. ' ' .. (before and before[1] or '-') .. ' ' .. text)
redis.call('PEXPIRE', log, logMs)
redis.call('XTRIM', log, 'MINID', string.format('%.0f', string.match(id, '^%d+') - logMs))
if producer then redis.call('SET', reply, n .. ' ' .. id .. ' ' .. producer, 'PX', leaseMs) end
return {'appended', id, stoppedBy}
`);

/**
 * KEYS: reply. ARGV: how long it stays settled, and the lease's ms. Answers 1 or 0. Who takes a reply holds it for a lease, too:
 * after that it can be taken again, because the answer may have been lost, or the taker died.
 */
export const TAKE = script(`
local held = redis.call('GET', KEYS[1]) or ''
if string.match(held, '^%d+ %S+ .+$') then return 0 end
if held == 'settled' and redis.call('PTTL', KEYS[1]) > tonumber(ARGV[1]) - tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], 'settled', 'PX', ARGV[1])
return 1
`);

/**
 * KEYS: log, and the replies to be settled. ARGV: channel, text, log's ms. Answers 1. The log is trimmed rather than deleted: it
 * remembers its last id then, and the next one is larger, whatever the clock says.
 */
export const CLEAR = script(`
local before = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
for i = 2, #KEYS do redis.call('SET', KEYS[i], 'settled', 'PX', ARGV[3]) end
redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
local id = redis.call('XADD', KEYS[1], '*', 't', ARGV[2])
redis.call('PUBLISH', ARGV[1], id .. ' ' .. (before and before[1] or '-') .. ' ' .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
`);

function script(lua: string): Script {
  return { lua, sha: createHash("sha1").update(lua).digest("hex") };
}
