// May these keys be used? With Node's own http:  node http.mjs SOCKET [KEY_ID...]
import http from 'node:http'
import { judge, limit, main, pathOf } from './verdict.mjs'

export async function ask(socketPath, keyId) {
  const answer = await new Promise((resolve, reject) => {
    http.get({ socketPath, path: pathOf(keyId), signal: AbortSignal.timeout(limit) }, resolve).on('error', reject)
  })
  let text = ''
  for await (const chunk of answer.setEncoding('utf8')) text += chunk
  return judge(keyId, answer.statusCode, text)
}

process.exitCode = await main((keyId) => ask(process.argv[2], keyId))
