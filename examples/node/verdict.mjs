// What http.mjs and undici.mjs share: what an answer means, and a small command line.
import readline from 'node:readline'

// The whole exchange may take this long, in milliseconds.
export const limit = 2000

// One segment of the path, whatever the id holds.
export const pathOf = (keyId) => '/v1/keys/' + encodeURIComponent(keyId)

// Says whether the key may be used. Throws if that cannot be told: fail the request that needed the key.
export function judge(keyId, status, text) {
  const verdict = JSON.parse(text)
  if (status === 200 && verdict?.valid === true && verdict.key_id === keyId) return { valid: true, code: verdict.code }
  if ([403, 404, 410].includes(status) && verdict?.valid === false && verdict.key_id === keyId) return { valid: false, code: verdict.code }
  if (status === 400 && verdict?.code === 'bad_key_id') return { valid: false, code: 'bad_key_id' }
  throw new Error(`status ${status}`) // 503, an unknown route, an answer about another key
}

// node FILE SOCKET [KEY_ID...]; without key ids: one a line from standard input.
// Exit status: 0 all may be used, 1 one may not, 2 one cannot be told.
export async function main(ask) {
  const keyIds = process.argv.length > 3 ? process.argv.slice(3) : readline.createInterface({ input: process.stdin })
  let worst = 0
  for await (const keyId of keyIds) {
    try {
      const { valid, code } = await ask(keyId)
      worst = Math.max(worst, valid ? 0 : 1)
      console.log(valid ? 'yes' : `no ${code}`)
    } catch (error) {
      worst = 2
      console.log(`cannot tell: ${error.message}`)
    }
  }
  return worst
}
